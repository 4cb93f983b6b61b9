"""H-Net V-JEPA: hierarchical, dynamic-chunking video world models that robots can plan with."""

__version__ = "0.1.0"
