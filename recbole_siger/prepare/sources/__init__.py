"""One file a kind of raw data."""
