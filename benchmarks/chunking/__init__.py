"""Chunks beside other ways to make tokens of a clip: how good, how fast, and whether their number follows content."""
