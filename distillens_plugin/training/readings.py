"""What a run measures of itself, and when: lens.jsonl, answers.jsonl, trackers' figures, a page.

Nothing here changes what is learned: the same steps follow, whether or not anything is measured.
The lens reads before training and after it. In between, whatever is due at a validation is left out
while measuring has taken its share of the time (`report.max_share`).
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.experiment.experiment import Experiment
from distillens_plugin.integrations.torchdistill.processes import trained_model
from distillens_plugin.sharding.pieces import is_in_pieces
from distillens_plugin.storage import run_folder
from distillens_plugin.storage.main_process import on_main_process, say
from distillens_plugin.storage.random_states import undisturbed_random_states
from distillens_plugin.training.answer_readings import answer_readings
from distillens_plugin.training.record_file import RecordFile
from distillens_plugin.training.report_budget import Budget
from distillens_plugin.training.validation import SampleAnswer

if TYPE_CHECKING:
    from distillens_plugin.training.lens_readings import LensReadings

# What a set of figures is expected to take before the first one: matplotlib is loaded.
_FIRST_FIGURES_S = 2.0


class Readings:
    """The measurements of one run; every process calls `before`, `at_validation` and `after`.

    The main process measures alone; of models in pieces each process has its part to do.

    Args:
        elapsed: seconds of work since the run began.
        keep: bytes to keep of each growing file, by name; those of a new run are empty.
        seconds: spent before an interruption.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        elapsed: Callable[[], float],
        *,
        keep: Mapping[str, int] | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._experiment, self._folder = experiment, folder
        self._accelerator = experiment.accelerator
        self._report = experiment.recipe.report
        self._in_pieces = is_in_pieces(trained_model(experiment.box)) or is_in_pieces(
            experiment.teacher
        )
        self._budget = Budget(self._report.max_share, elapsed, self._accelerator.device)
        self._budget.seconds = seconds
        kept = {name: (keep or {}).get(name, 0) for name in (run_folder.LENS, run_folder.ANSWERS)}
        self._files: dict[str, RecordFile] = {}
        if self._accelerator.is_main_process:
            self._files = {name: RecordFile(folder / name, size) for name, size in kept.items()}
        self._has_teacher_line = kept[run_folder.LENS] > 0
        self._lens: LensReadings | None = None
        self._answers = answer_readings(experiment) if self._report.answers else None
        # Seconds that each is expected to take.
        self._lens_s, self._answers_s = 0.0, math.nan
        self._figures_s = _FIRST_FIGURES_S
        self._draws = bool(experiment.recipe.trackers) and self._report.is_on
        self._last_step = -1

    def before(self) -> None:
        """Reads the untrained student, and its teacher."""
        if self._report.lens and self._has_part():
            self._read_lens(0)

    def at_validation(self, step: int) -> None:
        """Measures what fits, after a validation in the middle of a run."""
        if not (self._report.is_on and self._has_part()):
            return
        # What comes after training is sure to be spent.
        if self._report.lens and self._fits(lambda: 2 * self._lens_s):
            self._read_lens(step)
        if self._answers is not None:
            self._read_answers(step)
        if self._draws and self._fits(lambda: self._figures_s + self._lens_s):
            self._draw(step)

    def after(self, step: int) -> None:
        """Reads the trained student."""
        if self._report.lens and self._has_part() and self._last_step != step:
            self._read_lens(step)

    def summary(self) -> dict[str, float]:
        """What measuring took, for summary.json; empty if nothing is measured."""
        if not self._report.is_on:
            return {}
        return {
            "report_seconds": round(self._budget.seconds, 3),
            "report_share": round(self._budget.share, 5),
        }

    def line(self, summary: Mapping[str, float]) -> str | None:
        """The same for people.

        Args:
            summary: what it was when the run ended.
        """
        if not summary.get("report_seconds"):
            return None
        share = summary["report_share"]
        above = " (a short run: it is read before and after, whatever that takes)"
        return (
            f"measured itself for {summary['report_seconds']:.1f} s, {100 * share:.1f} % of the run"
            f"{above if share > self._report.max_share else ''}: {self._folder / self._shown_file}"
        )

    @property
    def _shown_file(self) -> str:
        """The file that the line names: one that there is."""
        if self._report.lens:
            return run_folder.LENS
        return run_folder.ANSWERS if self._answers is not None else run_folder.TRACKERS

    def keep_last_answers(self, answers: list[SampleAnswer], step: int) -> None:
        """Writes the answers that the end of a run shows; they are generated in any case."""
        if self._answers is not None and self._accelerator.is_main_process:
            for record in self._answers.records(answers, step):
                self._files[run_folder.ANSWERS].write(record)

    def finish(self, step: int) -> None:
        """The last figures and the page about the finished run, on the main process.

        They come after everything else: if they fail, the run is still a whole one.
        """
        if not self._accelerator.is_main_process:
            return
        if self._draws:
            self._draw(step)
        if self._report.page:
            self._write_page()

    def seconds(self) -> float:
        """Spent so far, for the state."""
        return self._budget.seconds

    def sync(self) -> None:
        """Makes the files durable, before a state copies them."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _has_part(self) -> bool:
        """Whether this process takes part in measuring."""
        return self._in_pieces or self._accelerator.is_main_process

    def _fits(self, expected: Callable[[], float]) -> bool:
        """Whether something that takes so many seconds fits; the processes that measure agree."""
        if not self._in_pieces:
            return self._budget.allows(expected())
        return on_main_process(self._accelerator, lambda: self._budget.allows(expected()))

    def _read_lens(self, step: int) -> None:
        with self._budget.spending() as spent, undisturbed_random_states():
            if self._lens is None:
                self._lens = self._make_lens()
            record = self._lens.read(with_teacher=not self._has_teacher_line)
            self._lens_s = spent()
        self._last_step = step
        if record is None:
            say(
                self._accelerator,
                f"note: step {step}: what the lens reads is not finite, so it is not recorded",
            )
        elif self._accelerator.is_main_process:
            seconds = round(self._lens_s, 4)
            self._files[run_folder.LENS].write({"step": step, "seconds": seconds, **record})
            self._has_teacher_line = True

    def _make_lens(self) -> "LensReadings":
        from distillens_plugin.training.lens_readings import LensReadings

        lens = LensReadings(self._experiment)
        if self._experiment.recipe.is_distillation and lens.teacher is None:
            say(
                self._accelerator,
                "note: the lens reads the student alone: of the teacher only what reads its cached "
                "states is loaded (teacher_cache.teacher: whole loads all)",
            )
        return lens

    def _read_answers(self, step: int) -> None:
        assert self._answers is not None
        if math.isnan(self._answers_s) and self._fits(lambda: self._lens_s):
            with self._budget.spending() as spent, undisturbed_random_states():
                self._answers.try_out()
                self._answers_s = spent() * self._answers.tries
        if not self._fits(lambda: self._answers_s + self._lens_s):
            return
        with self._budget.spending() as spent, undisturbed_random_states():
            answers = self._answers.answers()
            self._answers_s = spent()
        self.keep_last_answers(answers, step)

    def _draw(self, step: int) -> None:
        """Figures for the trackers; on the main process alone."""
        if not self._accelerator.is_main_process:
            return
        from distillens_plugin.training.tracker_figures import log_figures

        with self._budget.spending() as spent, undisturbed_random_states():
            try:
                log_figures(self._accelerator, self._folder, step=step)
            except Exception as error:
                # A picture is not worth a run.
                self._draws = False
                say(self._accelerator, f"note: no figures for the trackers: {_one_line(error)}")
            self._figures_s = spent()

    def _write_page(self) -> None:
        started_at = time.perf_counter()
        try:
            from distillens_plugin.reports.run_report import write_run_report

            page = write_run_report(self._folder)
        except Exception as error:
            # The run has all its models and numbers; `distillens report` can write it later.
            say(self._accelerator, f"note: no report of the run was written: {_one_line(error)}")
            return
        say(self._accelerator, f"report: {page} ({time.perf_counter() - started_at:.1f} s)")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
