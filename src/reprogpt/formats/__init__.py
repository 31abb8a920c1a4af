"""Model directories of others: Hugging Face's, nanoGPT's, the Hub's."""
