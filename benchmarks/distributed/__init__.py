"""Training over several ranks: equal losses, killed ranks, and memory of sharded sequences."""
