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

    A stop string that occurs in one of the row's references is part of that task and is not used
    there, so an answer that equals its reference stays whole.

    Args:
        text: decoded without special tokens, up to the end token.
        until: stop strings, under lm-eval's name; None: the starts of every named template.
        newline: what the data set writes for a newline (`<n>` in MiniLLM's); None: nothing.
        references: of the row, after `read_newlines`.
    Source: MiniLLM's evaluation for the end mark and `<n>`; lm-eval for `until`.
    """
    answer = read_newlines(text, newline)
    for stop in (END_MARK, *(named_starts() if until is None else until)):
        # A stop may begin with a newline; the reference's first line counts as well.
        if not any(stop in f"\n{reference}" for reference in references):
            answer = answer.split(stop, 1)[0]
    return answer.strip()


def read_newlines(text: str, newline: str | None) -> str:
    """The text with a data set's mark for a newline replaced by newlines; None: unchanged."""
    return text.replace(newline, "\n") if newline else text


def without_empty(references: Sequence[str]) -> list[str]:
    """The references with visible text; all of them if none has any.

    An empty reference among others would give an empty answer full marks.
    """
    return [text for text in references if text.strip()] or list(references)
