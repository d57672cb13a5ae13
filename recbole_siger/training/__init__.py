"""One training, from a configuration to a run folder: loop, selection, evaluation, progress, memory."""
