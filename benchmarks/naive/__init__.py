"""Plain implementations of the package's fast functions: the reference of every ratio."""
