"""Stage download: corpora to raw text."""
