"""Checks before and after a stage: what it needs, what it depends on, what changed meanwhile."""
