"""Train, evaluate and save one model: ``python run_recbole_siger.py --model=SIGER --dataset=ml-100k``."""

import sys

from recbole_siger.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
