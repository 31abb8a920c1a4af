"""Stage evaluate: validation loss, HellaSwag and reports."""
