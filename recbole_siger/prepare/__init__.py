"""Convert raw public data, or the user's own tables, to a dataset folder."""
