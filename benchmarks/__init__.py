"""Scripts that measure speed and memory; each answers one question and asserts nothing about time."""
