"""A judgement as text, for a terminal."""

from eval_harness.judging.tally import Lengths, Position, Tally


def task_lines(
    task: str, found: Tally, *, names: tuple[str, str], judge: str, adjusted_p: float, verdict: str
) -> list[str]:
    """A task's outcome, and then what may have swayed the judge.

    Args:
        names: of the two systems;  judge: its model.
    """
    a, b = names
    lines = [
        f"{task}, {found.num_rows} rows, {found.num_judged} pairs judged by {judge} in both orders",
        f"  {_outcome(a, b, found)}, p {found.paired.p_value:.4f}, Holm {adjusted_p:.4f}"
        f"{_reach(found)}: {verdict}",
        f"  position: {_places(found.position)}; {a} first: {_places(found.a_first)}; "
        f"{b} first: {_places(found.b_first)}",
        f"  order: {found.num_flipped} pairs flip with it, {found.num_half} are a tie in one "
        "order only; both count as ties",
        f"  words: {_words(a, b, found.lengths)}",
    ]
    left_out = _left_out(found)
    return [*lines, f"  left out: {left_out}"] if left_out else lines


def _outcome(a: str, b: str, found: Tally) -> str:
    interval = found.interval()
    shown = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval is not None else ""
    same = f" ({found.num_same} of identical answers)" if found.num_same else ""
    return (
        f"{a} wins {found.wins}, {b} wins {found.losses}, ties {found.ties}{same}: win rate of {a} "
        f"{found.win_rate:.1f} %{shown}"
    )


def _reach(found: Tally) -> str:
    reach = found.paired.smallest_detectable
    return f"; smallest detectable {reach:.1f} from 50" if reach is not None else ""


def _places(position: Position) -> str:
    if position.first is None or position.second is None or position.ties is None:
        return "no verdict"
    return (
        f"first place {position.first:.1f} %, second {position.second:.1f} %, "
        f"tie {position.ties:.1f} %"
    )


def _words(a: str, b: str, lengths: Lengths) -> str:
    means = f"{a} {_mean(lengths.a)}, {b} {_mean(lengths.b)}"
    if lengths.winners is None:
        return means
    return (
        f"{means}; winners {_mean(lengths.winners)}, losers {_mean(lengths.losers)}, the longer "
        f"answer won {lengths.longer_won} of {lengths.num_won}"
    )


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _left_out(found: Tally) -> str:
    counts = {
        "unreadable": found.num_unreadable,
        "refused": found.num_refused,
        "missing": found.num_missing,
    }
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    num_pairs = found.num_pairs - found.num_judged
    return f"{num_pairs} pairs, for {told} verdicts" if told else ""
