"""Stage train: the loader, the optimizer, the step and the loop."""
