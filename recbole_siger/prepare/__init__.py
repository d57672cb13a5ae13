"""Raw public data, or tables of one's own, to a dataset folder."""
