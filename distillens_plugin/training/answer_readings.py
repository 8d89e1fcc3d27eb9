"""What the student answers as it trains: greedy answers to the first validation rows."""

from typing import Any

from distillens_plugin.data.examples import InstructionDataset
from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.training.validation import SampleAnswer, sample_answers

# Tokens of the try that says how fast the student answers.
_FEW = 4


class AnswerReadings:
    """Answers of an experiment's student, as `samples` says.

    Every process calls its methods if the model is sharded.

    Args:
        data: the validation rows.
    """

    def __init__(self, experiment: Experiment, data: InstructionDataset) -> None:
        self._experiment = experiment
        self._data = data
        self._samples = experiment.recipe.samples

    @property
    def tries(self) -> float:
        """How much more a whole set of answers may take than one `try_out`."""
        return self._samples.num_rows * self._samples.max_new_tokens / _FEW

    def try_out(self) -> None:
        """The first tokens of one answer."""
        self._answer(1, min(_FEW, self._samples.max_new_tokens))

    def answers(self) -> list[SampleAnswer]:
        """On the main process; the others only lend their parts of a sharded model."""
        return self._answer(self._samples.num_rows, self._samples.max_new_tokens)

    def records(self, answers: list[SampleAnswer], step: int) -> list[dict[str, Any]]:
        """Lines of answers.jsonl."""
        return [
            {
                "step": step,
                "row": row.id,
                "prompt": answer.prompt,
                "answer": answer.answer,
                "reference": answer.reference,
            }
            for row, answer in zip(self._data.rows, answers, strict=False)
        ]

    def _answer(self, num_rows: int, max_new_tokens: int) -> list[SampleAnswer]:
        return sample_answers(
            trained_model(self._experiment.box),
            self._data,
            self._experiment.tokenizer,
            num_rows=num_rows if self._experiment.accelerator.is_main_process else 0,
            max_new_tokens=max_new_tokens,
        )


def answer_readings(experiment: Experiment) -> AnswerReadings | None:
    """None without validation rows, or with `samples.num_rows: 0`."""
    if experiment.validation is None or experiment.recipe.samples.num_rows == 0:
        return None
    return AnswerReadings(experiment, experiment.validation)
