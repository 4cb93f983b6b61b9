"""The planner: how fast, how cheap beside a peer, how good, and what each part of it is worth."""
