"""The network: GPT-2, its loss and dropout, the registry of architectures."""
