"""Whether a model that cannot be seen is still the one that gave the stored answers.

A server can get other weights under the same name. Its log-probabilities of one fixed text are kept
beside the answers, and must be the same, up to rounding, when a later run adds to them.
"""

from collections.abc import Sequence
from pathlib import Path

from eval_harness.backends.signatures import LARGEST_DIFFERENCE, difference_of
from eval_harness.errors import DistillensError
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.typed_json import Number, Strict, check, read_object

_EXPECTED = "expected a model's log-probabilities; remove the file"


class KnownModel(Strict):
    """The file's content."""

    log_probs: list[Number]


def check_known(answers: Path, signature: Sequence[float]) -> None:
    """Refuses a model other than the one that began the answers; notes it if it begins them.

    Args:
        answers: their store's file.
        signature: from `Backend.signature`.
    Raises:
        DistillensError: it is another model, or the file is damaged.
    """
    name = answers.name.removeprefix("answers_").removesuffix(".jsonl")
    file = answers.with_name(f"model_{name}.json")
    if not file.exists():
        write_json(file, {"log_probs": list(signature)})
        return
    known = check(KnownModel, read_object(file, expected=_EXPECTED), str(file), expected=_EXPECTED)
    difference = difference_of(known.log_probs, signature)
    if difference > LARGEST_DIFFERENCE:
        raise DistillensError(
            f"{file}: the model's log-probabilities of a fixed text differ by {difference:.2g} "
            f"nats from those kept here, expected at most {LARGEST_DIFFERENCE}: it has other "
            "weights than the one that gave the answers; give another output path"
        )
