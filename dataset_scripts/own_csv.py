"""Turn tables of your own into a dataset: the same as ``recbole-siger prepare csv``.

Usage::

    python dataset_scripts/own_csv.py --inter my.csv --items items.csv --name=shop
"""

from __future__ import annotations

import sys

from recbole_siger.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare", "csv", *sys.argv[1:]]))
