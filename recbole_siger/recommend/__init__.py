"""From a finished run folder to recommendations."""
