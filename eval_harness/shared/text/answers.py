"""From generated text to the answer that is scored."""

from collections.abc import Sequence

from eval_harness.shared.text.final_answers import final_answer, final_answer_score
from eval_harness.shared.text.prompt_starts import named_starts

__all__ = [
    "cut_answer",
    "cut_at_stop",
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
    starts: Sequence[str] | None = None,
    newline: str | None = None,
    references: Sequence[str] = (),
) -> str:
    """The text up to a literal `<|endoftext|>` or the next prompt that the model invents, stripped.

    These stops are ours: one that occurs in one of the row's references is part of that task and
    is not used there, so an answer that equals its reference stays whole. Those that somebody has
    named are used in every row.

    Args:
        text: decoded without special tokens, up to the end token.
        until: stop strings that the user or a benchmark names, under lm-eval's name; they replace
            `starts`. None: nobody does.
        starts: of the next prompt (see `prompt_starts`); None: those of every named template.
        newline: what the data set writes for a newline (`<n>` in MiniLLM's); None: nothing.
        references: of the row, after `read_newlines`.
    Source: MiniLLM's evaluation for the end mark and `<n>`; lm-eval for `until`.
    """
    answer, _ = cut_at_stop(
        text, until=until, starts=starts, newline=newline, references=references
    )
    return answer


def cut_at_stop(
    text: str,
    *,
    until: Sequence[str] | None = None,
    starts: Sequence[str] | None = None,
    newline: str | None = None,
    references: Sequence[str] = (),
) -> tuple[str, bool]:
    """The same, and whether one of the stops ended it."""
    ours = [END_MARK]
    if until is None:
        ours += named_starts() if starts is None else starts
    # A stop may begin with a newline; the reference's first line counts as well.
    used = [stop for stop in ours if not any(stop in f"\n{one}" for one in references)]
    whole = answer = read_newlines(text, newline)
    for stop in (*used, *(until or ())):
        answer = answer.split(stop, 1)[0]
    return answer.strip(), len(answer) < len(whole)


def read_newlines(text: str, newline: str | None) -> str:
    """The text with a data set's mark for a newline replaced by newlines; None: unchanged."""
    return text.replace(newline, "\n") if newline else text


def without_empty(references: Sequence[str]) -> list[str]:
    """The references with visible text; all of them if none has any.

    An empty reference among others would give an empty answer full marks.
    """
    return [text for text in references if text.strip()] or list(references)
