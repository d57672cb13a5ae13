"""`python -m recbole_siger.cli`, where the script `recbole-siger` is not on the path."""

import sys

from recbole_siger.cli import main
from recbole_siger.common.parent import stop_with_parent

if __name__ == "__main__":
    stop_with_parent()
    sys.exit(main())
