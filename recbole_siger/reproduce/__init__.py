"""A table or figure of a paper as one command: its runs, and their results beside the published numbers."""
