"""Hyper-parameter search with Ray Tune: ``from recbole_siger.tuning import tune_model``."""

from recbole_siger.tuning.search import tune_model

__all__ = ["tune_model"]
