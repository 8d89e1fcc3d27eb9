"""What the verdicts on one task add up to, with what speaks against trusting them.

A pair is asked about twice, with either answer first. As in MT-Bench (Zheng et al. 2023, arXiv
2306.05685), a system wins only if both verdicts prefer it; all other pairs are ties. The unit is
the row: a win is 100, a tie 50, and a row with several seeds has their mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np

from eval_harness.judging.pairs import Key, Pair
from eval_harness.judging.verdict import READABLE, Verdict
from eval_harness.shared.statistics import PairedComparison, compare_paired

_WIN, _TIE = 100.0, 50.0


@dataclass(frozen=True)
class Judged:
    """A pair with what the judge said about it.

    Attributes:
        verdicts: with the first system's answer as A, and with it as B; None: no verdict came.
            Identical answers are not asked about, and are a tie.
    """

    pair: Pair
    verdicts: tuple[Verdict | None, Verdict | None]

    @property
    def winner(self) -> int | None:
        """0 or 1, the place of the system that both orders prefer; None: neither."""
        if self.verdicts == ("A", "B"):
            return 0
        return 1 if self.verdicts == ("B", "A") else None

    @property
    def is_judged(self) -> bool:
        """Whether it is a win, a loss or a tie."""
        return self.pair.is_same or all(verdict in READABLE for verdict in self.verdicts)

    @property
    def follows_place(self) -> bool:
        """Whether the same place wins in both orders, whoever's answer stands there."""
        return self.verdicts in (("A", "A"), ("B", "B"))

    @property
    def outcome(self) -> str:
        """In a word, for files."""
        if not self.is_judged:
            return "not judged"
        return "tie" if self.winner is None else ("a", "b")[self.winner]


@dataclass(frozen=True)
class Position:
    """Shares of readable verdicts, x 100; all None without any.

    Attributes:
        first, second: that prefer the answer in that place;  ties: that prefer neither.
    """

    num_verdicts: int
    first: float | None
    second: float | None
    ties: float | None

    @classmethod
    def of(cls, verdicts: Sequence[Verdict | None]) -> "Position":
        found = [verdict for verdict in verdicts if verdict in READABLE]
        shares = [
            100 * found.count(verdict) / len(found) if found else None for verdict in READABLE
        ]
        return cls(len(found), *shares)


@dataclass(frozen=True)
class Lengths:
    """Mean words of answers; None where there are none.

    Attributes:
        a, b: of each system's answers;  winners, losers: of pairs that have one.
        longer_won: pairs won by the longer answer, of `num_won` pairs whose lengths differ.
    """

    a: float | None
    b: float | None
    winners: float | None
    losers: float | None
    longer_won: int
    num_won: int


@dataclass(frozen=True)
class Tally:
    """One task. `a` is the first system, in whose view wins and losses are.

    Attributes:
        num_rows: rows with a pair that was judged;  num_pairs: all pairs.
        wins, losses, ties: pairs;  num_same: those of the ties whose answers are identical.
        win_rate: mean over rows, a tie as half a win, x 100.
        paired: that rate less 50, with its interval and p-value.
        position: over all verdicts;  a_first, b_first: over those of one order.
        num_flipped: pairs where the same place won in both orders, so that the order decided.
        num_half: pairs that are a tie in one order only.
        num_unreadable, num_refused, num_missing: verdicts; their pairs are left out.
    """

    num_rows: int
    num_pairs: int
    wins: int
    losses: int
    ties: int
    num_same: int
    win_rate: float
    paired: PairedComparison
    position: Position
    a_first: Position
    b_first: Position
    num_flipped: int
    num_half: int
    num_unreadable: int
    num_refused: int
    num_missing: int
    lengths: Lengths

    @property
    def num_judged(self) -> int:
        """Pairs with an outcome."""
        return self.wins + self.losses + self.ties

    def interval(self) -> tuple[float, float] | None:
        """Of the win rate, 95 %; None for a single row."""
        low, high = self.paired.low, self.paired.high
        return None if low is None or high is None else (_TIE + low, _TIE + high)

    def to_json(self) -> dict[str, Any]:
        """Flat numbers, and the three parts."""
        low, high = self.interval() or (None, None)
        parts = ("paired", "position", "a_first", "b_first", "lengths")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in parts}
        return {
            **plain,
            "win_rate_ci_low": low,
            "win_rate_ci_high": high,
            "p_value": self.paired.p_value,
            "exact": self.paired.exact,
            "smallest_detectable": self.paired.smallest_detectable,
            "position": vars(self.position),
            "position_a_first": vars(self.a_first),
            "position_b_first": vars(self.b_first),
            "words": vars(self.lengths),
        }


def judged_pairs(pairs: Sequence[Pair], verdicts: Mapping[Key, Verdict]) -> list[Judged]:
    """The pairs with their verdicts, in the same order."""
    return [Judged(pair, (verdicts.get(pair.key(0)), verdicts.get(pair.key(1)))) for pair in pairs]


def tally(judged: Sequence[Judged], *, num_tasks: int = 1) -> Tally | None:
    """Adds up one task; None if no pair of it has an outcome.

    Args:
        num_tasks: judged together; the smallest detectable difference is at 0.05 / this.
    """
    rows: dict[str, list[float]] = {}
    for item in judged:
        if item.is_judged:
            score = _TIE if item.winner is None else (_WIN, 0.0)[item.winner]
            rows.setdefault(item.pair.row_id, []).append(score)
    if not rows:
        return None
    scores = np.array([fmean(values) for values in rows.values()])
    outcomes = [item.outcome for item in judged]
    asked = [item for item in judged if not item.pair.is_same]
    orders = [[item.verdicts[order] for item in asked] for order in (0, 1)]
    everything = [*orders[0], *orders[1]]
    return Tally(
        num_rows=len(rows),
        num_pairs=len(judged),
        wins=outcomes.count("a"),
        losses=outcomes.count("b"),
        ties=outcomes.count("tie"),
        num_same=len(judged) - len(asked),
        win_rate=float(scores.mean()),
        paired=compare_paired(scores, np.full(len(scores), _TIE), alpha=0.05 / num_tasks),
        position=Position.of(everything),
        a_first=Position.of(orders[0]),
        b_first=Position.of(orders[1]),
        num_flipped=sum(item.follows_place for item in asked),
        num_half=sum(item.is_judged and item.verdicts.count("C") == 1 for item in asked),
        num_unreadable=everything.count("unreadable"),
        num_refused=everything.count("refused"),
        num_missing=everything.count(None),
        lengths=_lengths(judged),
    )


def _lengths(judged: Sequence[Judged]) -> Lengths:
    words = [tuple(len(text.split()) for text in item.pair.answers) for item in judged]
    won = [
        (sizes[item.winner], sizes[1 - item.winner])
        for item, sizes in zip(judged, words, strict=True)
        if item.winner is not None
    ]
    return Lengths(
        a=_mean([a for a, _ in words]),
        b=_mean([b for _, b in words]),
        winners=_mean([winner for winner, _ in won]),
        losers=_mean([loser for _, loser in won]),
        longer_won=sum(winner > loser for winner, loser in won),
        num_won=sum(winner != loser for winner, loser in won),
    )


def _mean(values: Sequence[int]) -> float | None:
    return fmean(values) if values else None
