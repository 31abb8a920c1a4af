"""Behind corpora.py: where text comes from, and how it lies on the disk before it is tokens."""
