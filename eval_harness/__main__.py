"""`python -m eval_harness`."""

from eval_harness.shared.program.early import end_at_once

if __name__ == "__main__":
    import sys

    end_at_once("eval-harness")

    from eval_harness.cli import main

    sys.exit(main())
