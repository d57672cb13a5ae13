"""Speed and memory: one script a question, each prints its answer."""
