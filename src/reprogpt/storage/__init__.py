"""Files: written atomically, found, fetched and checked by sha256."""
