"""The simulated robots, one file each. ``sims/core/registry.py`` names them."""
