"""Behind tokenization.py: raw text to shards, in pieces, by any number of workers."""
