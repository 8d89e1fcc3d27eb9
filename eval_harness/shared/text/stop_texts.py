"""Texts that end an answer, as people give them: one text, or a list of them."""

from eval_harness.errors import DistillensError
from eval_harness.shared.shortened import shortened


def read_stop_texts(value: object, where: str) -> tuple[str, ...]:
    """The texts in their order, each once; () turns stops off.

    Args:
        value: a text or a list of texts.
        where: for errors: the flag, or file and key.
    Raises:
        DistillensError: anything else, or an empty text.
    """
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise DistillensError(
            f"{where}={shortened(repr(value))}: expected a text or a list of texts"
        )
    if "" in stops:
        raise DistillensError(
            f"{where}: found an empty text, which would end every answer before it begins; "
            "an empty list turns stops off"
        )
    return tuple(dict.fromkeys(stops))
