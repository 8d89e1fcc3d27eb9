"""From generated text to the answer that is scored."""

from collections.abc import Sequence

from eval_harness.shared.text.final_answers import final_answer, final_answer_score
from eval_harness.shared.text.prompt_starts import named_starts

__all__ = [
    "cut_answer",
    "final_answer",
    "final_answer_score",
    "read_newlines",
    "without_empty",
]

END_MARK = "<|endoftext|>"


def cut_answer(
    text: str,
    *,
    until: Sequence[str] | None = None,
    newline: str | None = None,
    references: Sequence[str] = (),
) -> str:
    """The text up to a literal `<|endoftext|>` or the next prompt that the model invents, stripped.

    A stop that a reference of the row has in its own text is part of that row's task and does not
    cut there, so an answer that equals its reference is whole.

    Args:
        text: decoded without special tokens, up to the end token.
        until: stop strings; None: the starts of every named template. lm-eval's word for them.
        newline: what the data set writes for a newline (`<n>` in MiniLLM's); None: nothing.
        references: of the row, after `read_newlines`.
    Source: MiniLLM's evaluation for the end mark and `<n>`; lm-eval for `until`.
    """
    answer = read_newlines(text, newline)
    for stop in (END_MARK, *(named_starts() if until is None else until)):
        # The first line of a reference is a line as well.
        if not any(stop in f"\n{reference}" for reference in references):
            answer = answer.split(stop, 1)[0]
    return answer.strip()


def read_newlines(text: str, newline: str | None) -> str:
    """The text with a data set's own mark for a newline turned into newlines; None: as it is."""
    return text.replace(newline, "\n") if newline else text


def without_empty(references: Sequence[str]) -> list[str]:
    """The references with visible text; all of them where none has any.

    An empty one among others would give an empty answer full marks.
    """
    return [text for text in references if text.strip()] or list(references)
