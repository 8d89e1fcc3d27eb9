"""torch and transformers take seconds to load: a check that needs them says so first."""

import sys


def load_torch() -> None:
    """Loads both where they are not loaded yet, after one line on standard output.

    Not on standard error: there a recipe's mistake stays the only line.
    """
    if "torch" not in sys.modules:
        print("loading torch and transformers ...", flush=True)
    import torch  # noqa: F401
    import transformers  # noqa: F401
