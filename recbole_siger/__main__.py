"""`python -m recbole_siger`, if the script `recbole-siger` is not on the path."""

import sys

from recbole_siger.cli import main

if __name__ == "__main__":
    sys.exit(main())
