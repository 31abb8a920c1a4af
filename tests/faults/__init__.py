"""Faults made on purpose: what breaks is said in a line, and nothing silently gives other results.

The quick ones run in `make test`. `make test-faults` runs all and writes docs/reliability.md.
"""
