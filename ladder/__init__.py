"""Lecture 1 as a ladder: see README.md. `dvc repro ladder/dvc.yaml` climbs it."""
