"""Lecture 1's models, from bigram to multi-head attention."""
