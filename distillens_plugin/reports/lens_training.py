"""What captions say of how a lens was trained, where its numbers need that to be read rightly."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distillens_plugin.reports.run_records import Run
from distillens_plugin.reports.run_words import sub_terms

LENS = "DistillLensLoss"


def compared_by(run: Run, terms: Iterable[str]) -> str:
    """Sentences about the values of these terms; empty where the lens is the plain one.

    Each begins with a space; of several terms it names its own.
    """
    names = list(dict.fromkeys(terms))
    said = {name: _of_values(run, _lens(run, name)) for name in names}
    several = len(names) > 1
    return "".join(
        f" In {name}, {sentence}." if several else f" {sentence[0].upper()}{sentence[1:]}."
        for name, sentences in said.items()
        for sentence in sentences
    )


def own_heads(runs: Sequence[Run]) -> str:
    """A sentence where a lens was trained through the teacher's head, which is not shown here."""
    found = [run for run in runs if any(reads_by_teacher(run, name) for name in sub_terms(run))]
    if not found:
        return ""
    whose = "" if len(found) == len(runs) else f" of {', '.join(run.name for run in found)}"
    return (
        f" Each model is read by its own head, although the lens{whose} was trained through the "
        "teacher's."
    )


def reads_by_teacher(run: Run, term: str) -> bool:
    """Whether this term is a lens by the teacher's readout."""
    return _lens(run, term).get("readout") == "teacher"


def is_in_nats(run: Run, term: str) -> bool:
    """Whether this term compares distributions, without the teacher's entropy as a factor."""
    key, kwargs = _parameters(run, term)
    return key == LENS and kwargs.get("weigh_by") != "teacher_entropy"


def _of_values(run: Run, kwargs: Mapping[str, Any]) -> list[str]:
    sentences = []
    if kwargs.get("readout") == "teacher":
        owner = _parameters(run, kwargs.get("projection_of"))[1]
        given = kwargs.get("projection") or owner.get("projection")
        mapped = "" if given == "none" else ", the student's by a trained map"
        sentences.append(f"both layers are read through the teacher's unembedding{mapped}")
    least = kwargs.get("min_teacher_entropy")
    if isinstance(least, int | float):
        sentences.append(
            f"positions where the teacher's final distribution has less than {least:.3g} nats of "
            "entropy count 0"
        )
    share = kwargs.get("positions")
    if isinstance(share, int | float) and share < 1:
        of = "supervised positions" if least is None else "others"
        sentences.append(
            f"each value is an estimate from {100 * share:.3g} % of the {of}, drawn at random in "
            "each step"
        )
    if kwargs.get("weigh_by") == "teacher_entropy":
        sentences.append(
            "each position is multiplied by the entropy of the teacher's final distribution"
        )
    return sentences


def _lens(run: Run, term: str) -> Mapping[str, Any]:
    """The parameters of a lens as the recipe has them; empty of every other term."""
    key, kwargs = _parameters(run, term)
    return kwargs if key == LENS else {}


def _parameters(run: Run, term: object) -> tuple[object, Mapping[str, Any]]:
    """A term's key and parameters; None and empty where the recipe has no such term."""
    spec = sub_terms(run).get(term) if isinstance(term, str) else None
    criterion = spec.get("criterion") if isinstance(spec, Mapping) else None
    if not isinstance(criterion, Mapping):
        return None, {}
    kwargs = criterion.get("kwargs")
    return criterion.get("key"), kwargs if isinstance(kwargs, Mapping) else {}
