"""Behind train.py: what a training run is made of besides its loop."""
