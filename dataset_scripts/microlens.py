"""Turn MicroLens' files into a dataset: the same as ``recbole-siger prepare microlens``.

Usage::

    python dataset_scripts/microlens.py --source raw/microlens --name=microlens
"""

from __future__ import annotations

import sys

from recbole_siger.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare", "microlens", *sys.argv[1:]]))
