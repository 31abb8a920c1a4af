"""Starting a training: its run directory and its processes."""
