"""reprogpt: GPT-2, and everything taught on the way to it, as reproducible experiments."""

__version__ = "0.2.0"
