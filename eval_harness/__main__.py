"""`python -m eval_harness`."""

import sys

from eval_harness.cli import main

if __name__ == "__main__":
    sys.exit(main())
