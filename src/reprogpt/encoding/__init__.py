"""Stage tokenize: raw text to shards."""
