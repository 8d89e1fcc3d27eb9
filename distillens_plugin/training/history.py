"""What a run records for its summary, and which of its models is the best."""

from dataclasses import dataclass, field


@dataclass
class History:
    """Scores and counts of a run so far.

    Attributes:
        validation: the scores of each evaluation, with its step and epoch.
        best_step, best_score: of the model that was saved as `best`.
        num_all_masked: batches in which nothing was supervised.
        train_seconds: without validation and saving.
        seconds_per_step: also without the first steps after a start.
        stopping_score: the last score that counted as an improvement for early stopping, and
            `num_without_improvement`, the evaluations since then.
        stopped: why the run ended before its last step; None if it did not.
    """

    validation: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    num_all_masked: int = 0
    train_seconds: float = 0.0
    tokens_per_s: float = 0.0
    seconds_per_step: float = 0.0
    stopping_score: float | None = None
    num_without_improvement: int = 0
    stopped: str | None = None

    @property
    def last_loss(self) -> float | None:
        """Validation loss of the last evaluation."""
        return self.validation[-1]["validation_loss"] if self.validation else None

    def improves(
        self, score: float | None, higher_is_better: bool, loss: float | None = None
    ) -> bool:
        """Whether a score beats the best so far; without scores the newest is the best.

        Between equal scores the lower validation loss decides.
        """
        if score is None or self.best_score is None:
            return True
        if score == self.best_score and loss is not None:
            return any(
                loss < entry["validation_loss"]
                for entry in self.validation
                if entry["step"] == self.best_step
            )
        return score > self.best_score if higher_is_better else score < self.best_score
