"""Turn MovieLens' files into a dataset: the same as ``recbole-siger prepare movielens``.

Usage::

    python dataset_scripts/movielens.py --source raw/ml-1m --name=ml-1m
"""

from __future__ import annotations

import sys

from recbole_siger.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare", "movielens", *sys.argv[1:]]))
