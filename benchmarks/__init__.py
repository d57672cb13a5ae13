"""Scripts that measure speed and memory; each script answers one question and asserts nothing about time."""
