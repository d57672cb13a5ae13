"""Checks of a dataset, a model and a run against the requirements of an honest evaluation."""
