"""Sweeps of one hyperparameter each: README.md. `dvc repro ladder/sweeps/dvc.yaml` runs them."""
