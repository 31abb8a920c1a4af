"""The process: its device, precision, group, signals and workers."""
