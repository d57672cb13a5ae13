"""Run folders: the only place where a run writes."""
