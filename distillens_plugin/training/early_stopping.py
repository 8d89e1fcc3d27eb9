"""`train.early_stopping`: whether a run's score still improves."""

from distillens_plugin.recipe.schema.by_steps import EarlyStopping
from distillens_plugin.training.history import History


def judge(
    history: History,
    score: float,
    settings: EarlyStopping,
    *,
    score_name: str,
    higher_is_better: bool,
) -> None:
    """Counts the evaluations without an improvement; sets `history.stopped` if they are too many.

    An improvement is measured against the last one, not against the evaluation before: small steps
    add up.
    """
    reference = history.stopping_score
    gain = 0.0 if reference is None else (score - reference) * (1 if higher_is_better else -1)
    if reference is None or gain > settings.min_delta:
        history.stopping_score, history.num_without_improvement = score, 0
        return
    history.num_without_improvement += 1
    if history.num_without_improvement < settings.patience:
        return
    by = f" by more than {settings.min_delta:g}" if settings.min_delta else ""
    evaluations = "evaluation" if settings.patience == 1 else "evaluations"
    history.stopped = (
        f"{score_name} did not improve{by} in {settings.patience} {evaluations}; it was "
        f"{reference:.4f}"
    )
