"""Make item features for RecBole's embedded ml-100k from titles, years and genres.

Usage::

    python dataset_scripts/ml_100k.py --output dataset/ml-100k
"""

from __future__ import annotations

from recbole_siger.prepare.sources.ml_100k import main, prepare

__all__ = ["prepare"]

if __name__ == "__main__":
    raise SystemExit(main())
