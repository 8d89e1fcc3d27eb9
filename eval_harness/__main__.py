"""`python -m eval_harness`."""

from eval_harness.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
