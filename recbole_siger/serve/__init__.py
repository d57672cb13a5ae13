"""Recommendations of a finished run over HTTP."""
