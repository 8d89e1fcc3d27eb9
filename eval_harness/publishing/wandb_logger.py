"""Weights & Biases: what lm-eval's own logger logs of a run, under its names."""

import importlib.util
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.endpoint.hub_access import first_line
from eval_harness.shared.near import near_names
from eval_harness.shared.shortened import shortened

if TYPE_CHECKING:
    import wandb

    from eval_harness.results.schema import Results, Sample

FLAG = "--wandb_args"
MODES = ("online", "offline", "disabled", "shared")
# Of wandb.init; what it takes beside these is set by WANDB_... variables.
TEXTS = frozenset({"dir", "entity", "group", "id", "job_type", "mode", "name", "notes", "project"})
_SWITCHES = frozenset({"allow_val_change", "force"})
_KNOWN = sorted({*TEXTS, *_SWITCHES, "resume", "step", "tags"})
# What wandb itself checks when a run begins, under its names for them.
_CHECKED = {"project": "project", "id": "run_id", "tags": "run_tags", "resume": "resume"}
_COLUMNS = ("Tasks", "Version", "Filter", "num_fewshot", "Metric", "Value", "Stderr")


@dataclass(frozen=True)
class WandbLogger:
    """Where and how results are logged.

    Attributes:
        init: arguments of `wandb.init`.
        config: further entries of the run's config.
        step: of everything that is logged; None: wandb counts.
        secret: a text of the command line that must not be sent.
    """

    init: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    secret: str | None = None

    @classmethod
    def of(
        cls,
        given: Mapping[str, Any],
        config: Mapping[str, Any],
        *,
        output_path: Path,
        secret: str | None = None,
    ) -> "WandbLogger":
        """The logger of the two flags, checked before anything is loaded.

        Args:
            given: --wandb_args, parsed.
            config: --wandb_config_args, parsed.
            output_path: wandb's own files go there unless `dir` or WANDB_DIR says otherwise.
        Raises:
            DistillensError: an unknown key, a wrong value, no wandb, or nobody logged in.
        """
        for key, value in given.items():
            _check(key, value)
        init = {key: value for key, value in given.items() if key != "step" and value is not None}
        if "dir" not in init and not os.environ.get("WANDB_DIR"):
            init["dir"] = str(output_path)
        _check_usable(str(init.get("mode") or os.environ.get("WANDB_MODE") or "online"))
        _check_values(init)
        return cls(init, dict(config), given.get("step"), secret)

    def log(self, results: "Results", path: Path) -> str:
        """Logs one run of wandb: metrics, tables, and the two files as artifacts.

        Args:
            results: of the evaluation, with the samples that were written.
            path: of the results file, for messages.
        Returns:
            A line to print.
        Raises:
            RunFailure: wandb cannot; the results are on disk, and the same command logs them again.
        """
        import wandb

        try:
            with _hidden(self.secret):
                run = wandb.init(**self.init)
                try:
                    self._log(run, results)
                except BaseException:
                    run.finish(exit_code=1)
                    raise
                # An offline run has no address yet.
                where = run.dir if run.offline or not run.url else run.url
                run.finish()
        except Exception as error:  # whatever it is, the results must be found
            raise RunFailure(
                f"{FLAG}: nothing more could be logged ({type(error).__name__}: "
                f"{first_line(error)}); the results are in {path}, and the same command logs again "
                "without generating (mode=offline needs no network)"
            ) from error
        return f"logged to Weights & Biases: {where}"

    def _log(self, run: "wandb.Run", results: "Results") -> None:
        content = results.to_json()
        configs = {"task_configs": content["configs"], "cli_configs": content["config"]}
        run.config.update({**self.config, **configs}, allow_val_change=self.step is not None)
        numbers, texts = _numbers_and_texts(content["results"])
        run.summary.update(texts)
        run.log(numbers, step=self.step)
        run.log({"evaluation/eval_results": _results_table(content)}, step=self.step)
        _log_artifact(run, "results", "eval_results", "results.json", content)
        for task in results.tasks.values():
            if not task.samples:
                continue
            run.log({f"{task.task}_eval_results": _samples_table(task.samples)}, step=self.step)
            rows = [sample.to_json() for sample in task.samples]
            file = f"{task.task}_eval_samples.json"
            # wandb takes no other characters in a name.
            name = re.sub(r"[^a-zA-Z0-9_.-]", "_", task.task)
            _log_artifact(run, name, "samples_by_task", file, rows)


def _check(key: str, value: object) -> None:
    if key not in _KNOWN:
        raise DistillensError(
            f"{FLAG} {shortened(key)}: not known{near_names(key, _KNOWN)}, expected "
            f"{', '.join(_KNOWN)}; wandb's other settings are WANDB_... variables"
        )
    expected = None
    if key == "mode" and value not in (None, *MODES):
        expected = f"one of {', '.join(MODES)}"
    elif key in TEXTS and not isinstance(value, str | None):
        expected = "a text; put it in quotes"
    elif key in _SWITCHES and not isinstance(value, bool):
        expected = "true or false"
    elif key == "step" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        expected = "an integer of at least 0"
    elif key == "resume" and not isinstance(value, str | bool | None):
        expected = "allow, must, never, auto, true or false"
    elif key == "tags" and not (
        isinstance(value, list) and all(isinstance(tag, str) for tag in value)
    ):
        expected = 'a list of texts: tags=["a","b"]'
    if expected is not None:
        raise DistillensError(f"{FLAG} {key} = {shortened(repr(value))}, expected {expected}")


def _check_usable(mode: str) -> None:
    if importlib.util.find_spec("wandb") is None:
        raise DistillensError(f"{FLAG}: wandb is not installed; pip install wandb, or drop {FLAG}")
    import wandb

    login = getattr(wandb, "login", None)
    if login is None or "prompt" not in inspect.signature(login).parameters:
        raise DistillensError(f"{FLAG}: wandb is older than 0.31; pip install -U wandb")
    if mode not in ("offline", "disabled") and not login(prompt=False, verify=False):
        raise DistillensError(
            f"{FLAG}: nobody is logged in to Weights & Biases; run `wandb login`, set "
            "WANDB_API_KEY, or give mode=offline"
        )


def _check_values(init: Mapping[str, Any]) -> None:
    """What wandb would refuse when the work is done."""
    import wandb

    for key, name in _CHECKED.items():
        if key not in init:
            continue
        try:
            wandb.Settings(**{name: init[key]})
        except (wandb.errors.UsageError, ValidationError) as error:
            is_checked = isinstance(error, ValidationError)
            reason = error.errors()[0]["msg"] if is_checked else first_line(error)
            raise DistillensError(
                f"{FLAG} {key} = {shortened(repr(init[key]))}: wandb refuses it ({reason})"
            ) from error


@contextmanager
def _hidden(secret: str | None) -> Iterator[None]:
    """wandb sends the command line along, which may hold a token."""
    words = list(sys.argv)
    if secret:
        sys.argv[:] = [word.replace(secret, "...") for word in words]
    try:
        yield
    finally:
        sys.argv[:] = words


def _numbers_and_texts(
    tables: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, float], dict[str, str]]:
    """Of lm-eval's `results`, by `task/metric`, without the filter's name where there is none."""
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    for task, entries in tables.items():
        for name, value in entries.items():
            key = f"{task}/{name.removesuffix(',none')}"
            if isinstance(value, str):
                texts[key] = value
            else:
                numbers[key] = value
    return numbers, texts


def _results_table(content: Mapping[str, Any]) -> "wandb.Table":
    import wandb

    table = wandb.Table(columns=list(_COLUMNS))
    for task, entries in content["results"].items():
        head = content["versions"][task], content["n-shot"][task]
        for name, value in entries.items():
            metric, _, chosen = name.partition(",")
            if metric == "alias" or metric.endswith("_stderr"):
                continue
            error = entries.get(f"{metric}_stderr,{chosen}")
            shown = "" if error is None else f"{error:.4f}"
            table.add_data(task, head[0], chosen, head[1], metric, str(value), shown)
    return table


def _samples_table(samples: list["Sample"]) -> "wandb.Table":
    """A row of the benchmark in each line; of several seeds the first one's answer."""
    import wandb

    from eval_harness.results.schema import metric_names

    metrics = metric_names(samples)
    columns = ["id", "data", "input_len", "labels", "output_type"]
    columns += ["raw_predictions", "filtered_predictions", *metrics]
    table = wandb.Table(columns=columns)
    for sample in samples:
        written = sample.to_json()
        row = [sample.doc_id, sample.prompt, len(sample.prompt), written["target"]]
        row += ["generate_until", sample.resps[0], sample.filtered_resps[0]]
        # A row without references has no scores.
        table.add_data(*row, *(written.get(metric) for metric in metrics))
    return table


def _log_artifact(run: "wandb.Run", name: str, kind: str, file: str, content: object) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    with artifact.new_file(file, mode="w", encoding="utf-8") as opened:
        json.dump(content, opened, indent=2, ensure_ascii=False)
    run.log_artifact(artifact)
