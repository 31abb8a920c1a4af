"""Scaling laws: small models are trained, a law is fitted, and a larger model's loss predicted."""
