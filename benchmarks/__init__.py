"""Scripts that measure; they print tables and assert nothing about time."""
