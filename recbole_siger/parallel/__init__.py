"""One training in several processes, and the one connection to Ray."""
