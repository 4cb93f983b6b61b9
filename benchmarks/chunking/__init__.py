"""Chunks beside other tokenizers of a clip: quality, speed, and whether their number follows content."""
