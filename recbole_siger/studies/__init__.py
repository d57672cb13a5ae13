"""Several runs for one question: compare, ablate, sweep, cold start."""
