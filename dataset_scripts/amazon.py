"""Turn an Amazon category's files into a dataset: the same as ``recbole-siger prepare amazon``.

Usage::

    python dataset_scripts/amazon.py --category=Baby --source raw/baby --name=baby
"""

from __future__ import annotations

import sys

from recbole_siger.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare", "amazon", *sys.argv[1:]]))
