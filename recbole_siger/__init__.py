"""Multimodal recommendation for RecBole: SIGER beside every model that RecBole ships.

Importing this package imports neither RecBole nor Ray; :mod:`recbole_siger.quick_start` does the work.
"""

__version__ = "0.1.0"
