"""Plain implementations of what the package makes fast: the other side of every ratio."""
