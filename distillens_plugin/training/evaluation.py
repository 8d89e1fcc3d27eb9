"""The scores of the student as it trains: validation loss, terms, and ROUGE-L where asked for."""

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.on_policy.loader import OnPolicyLoader, Share
from distillens_plugin.training.validation import validation_rouge, validation_scores
from distillens_plugin.training.validation_terms import teacher_terms
from eval_harness.errors import NotFinite


def on_policy_share(experiment: Experiment) -> Share | None:
    """The share of rows that the student answers itself; None without `train.on_policy`."""
    loader = experiment.box.train_data_loader
    return loader.share if isinstance(loader, OnPolicyLoader) else None


class Evaluation:
    """Evaluates the student of an experiment on its validation data.

    Attributes:
        step: of the last evaluation; 0 before it, and `scores` what it found, by name.
        score_name: the one that chooses `best`.
        loss_before: validation loss before training; None without validation data.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._terms = teacher_terms(experiment)
        self.score_name = experiment.recipe.train.best_by
        self.step = 0
        self.scores: dict[str, float] = {}
        self.loss_before: float | None = None

    def before_training(self) -> dict[str, float] | None:
        """The scores that can be had of an untrained student; None without validation data."""
        if self._experiment.validation is None:
            return None
        scores = self._scores(0)
        self.loss_before = scores["validation_loss"]
        share = on_policy_share(self._experiment)
        if share is not None:
            share.after_validation(self.loss_before)
        return scores

    def at_step(self, step: int) -> dict[str, float]:
        """The scores after an optimiser step.

        Raises:
            NotFinite: the validation loss is not finite.
        """
        experiment = self._experiment
        assert experiment.validation is not None
        self.step, self.scores = step, self._scores(step)
        share = on_policy_share(experiment)
        if share is not None:
            share.after_validation(self.scores["validation_loss"])
            self.scores["on_policy_share"] = share.value
        if self.by_rouge:
            self.scores[self.score_name] = validation_rouge(
                trained_model(experiment.box),
                experiment.validation,
                experiment.tokenizer,
                seed=experiment.recipe.seed,
                max_new_tokens=experiment.recipe.samples.max_new_tokens,
                accelerator=experiment.accelerator,
                metric=self.score_name,
            )
        return self.scores

    @property
    def by_rouge(self) -> bool:
        """Whether `best` is chosen by answers, so that the higher score is better."""
        return self.score_name != "validation_loss"

    def restore(self, loss_before: float | None, validation: list[dict[str, float]]) -> None:
        """Stands where an interrupted run stood.

        Args:
            validation: of its `History`.
        """
        self.loss_before = loss_before
        if validation:
            last = dict(validation[-1])
            self.step = int(last.pop("step"))
            # States of earlier versions have none.
            last.pop("epoch", None)
            self.scores = last

    def _scores(self, step: int) -> dict[str, float]:
        experiment = self._experiment
        assert experiment.validation is not None
        train = experiment.recipe.train
        batch_size = train.val_data_loader.kwargs.batch_size
        try:
            return validation_scores(
                trained_model(experiment.box),
                experiment.validation,
                batch_size=batch_size or train.train_data_loader.kwargs.batch_size or 1,
                accelerator=experiment.accelerator,
                terms=self._terms,
            )
        except NotFinite as error:
            if step == 0:
                todo = "it comes from the student's own weights: check them, or these rows"
            else:
                todo = (
                    "the student is not saved, and what was saved before is intact; lower the "
                    "learning rate, set max_grad_norm, or check these rows"
                )
            when = f"step {step}" if step else "before training"
            raise NotFinite(f"{when}: {error}; {todo}") from error
