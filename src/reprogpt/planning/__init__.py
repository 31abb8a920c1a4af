"""What a run will take, counted before it is started: make plan."""
