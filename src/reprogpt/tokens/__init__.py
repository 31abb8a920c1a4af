"""Tokenizers, and token ids on disk: shards and their manifest."""
