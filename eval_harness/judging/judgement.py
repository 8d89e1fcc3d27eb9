"""The judgement of two systems: what the verdicts show on each task, and what they depend on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.comparison.compare import ALPHA, NO_DIFFERENCE
from eval_harness.comparison.systems import System
from eval_harness.judging.table import task_lines
from eval_harness.judging.tally import Tally
from eval_harness.shared.digest import digest

FORMAT = 1


@dataclass(frozen=True)
class Judgement:
    """Everything about two systems on their tasks; as text, what `eval-harness judge` prints.

    Attributes:
        judge: what the verdicts depend on besides the answers: model, request and prompt.
        base_url: of the endpoint.
        answered_by: the models that the endpoint says it answered with.
        tallies: by task;  adjusted_p: Holm over them;  data: digest of what was asked.
        config: the settings of the command.
        date: when it started, in seconds since the epoch.
        path: its file; None before it is written.
    """

    systems: tuple[System, System]
    judge: dict[str, Any]
    base_url: str
    answered_by: list[str]
    tallies: dict[str, Tally]
    adjusted_p: dict[str, float]
    data: dict[str, str]
    config: dict[str, Any]
    date: float
    path: Path | None = None

    def __str__(self) -> str:
        a, b = (system.name for system in self.systems)
        return "\n\n".join(
            "\n".join(
                task_lines(
                    task,
                    found,
                    names=(a, b),
                    judge=self.judge["judge_model"],
                    adjusted_p=self.adjusted_p[task],
                    verdict=self.verdict(task),
                )
            )
            for task, found in self.tallies.items()
        )

    def verdict(self, task: str) -> str:
        """ "<name> is preferred", or "no difference shown"."""
        interval = self.tallies[task].interval()
        if interval is None or self.adjusted_p[task] >= ALPHA:
            return NO_DIFFERENCE
        a, b = (system.name for system in self.systems)
        if interval[0] > 50:
            return f"{a} is preferred"
        return f"{b} is preferred" if interval[1] < 50 else NO_DIFFERENCE

    def to_json(self) -> dict[str, Any]:
        """The content of the file, and of --json."""
        return {
            "results": {
                task: {
                    **found.to_json(),
                    "adjusted_p": self.adjusted_p[task],
                    "verdict": self.verdict(task),
                }
                for task, found in self.tallies.items()
            },
            "systems": {
                letter: {"name": system.name, "source": system.source}
                for letter, system in zip("ab", self.systems, strict=True)
            },
            "judge": {**self.judge, "base_url": self.base_url, "answered_by": self.answered_by},
            "fingerprints": {task: self._fingerprint(task) for task in self.tallies},
            "config": self.config,
            "date": self.date,
            "judge_format": FORMAT,
        }

    def _fingerprint(self, task: str) -> dict[str, Any]:
        systems = [system.fingerprints.get(task) for system in self.systems]
        # lm-eval's results have none; what was asked stands for them.
        a, b = (found.digest() if found is not None else None for found in systems)
        parts = {"judge": digest(self.judge), "data": self.data[task], "a": a, "b": b}
        return {"digest": digest(parts), **parts}
