"""Lecture 1's models as comparable runs: README.md. `dvc repro ladder/dvc.yaml` trains them."""
