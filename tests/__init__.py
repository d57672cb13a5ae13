"""Tests. A process uses one thread unless ``OMP_NUM_THREADS`` is given: the suite runs in two processes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads the variable when torch is imported
