"""Stage sample: text from a model."""
