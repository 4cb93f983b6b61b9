"""The simulated robots, one file each. ``sims/registry.py`` names them."""
