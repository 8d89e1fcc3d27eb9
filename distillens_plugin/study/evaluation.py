"""eval-harness on the models of final runs, and what it found, row by row."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from distillens_plugin.storage import run_folder
from distillens_plugin.study.digests import content_digest
from distillens_plugin.study.evaluation_arguments import (
    data_entries,
    evaluation_arguments,
    evaluation_of,
    is_benchmark_file,
    is_place,
)
from distillens_plugin.study.executor import Command
from distillens_plugin.study.plan import Run
from distillens_plugin.study.records import EXPECTED, DoneFile, read_json
from distillens_plugin.study.spec import Study
from distillens_plugin.study.state import DONE, LOG
from eval_harness import (
    Sample,
    check_backend_arguments,
    find_benchmarks,
    load_benchmark,
    load_results,
    make_protocol,
    metric_names,
    row_scores,
    scored_by,
    select_benchmarks,
    task_notes,
)
from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.typed_json import check
from eval_harness.shared.statistics import Floats, row_means

NLL = "nll"
_Checked = TypeVar("_Checked")


@dataclass(frozen=True)
class RowScores:
    """One metric of one run on one task.

    Attributes:
        ids: of the N rows.
        values: [N], means over the sampling seeds: x 100, or nats per reference token for `nll`,
            scaled so that their mean is the task's total over its tokens.
        to_subtract: [N], what is subtracted from another run's; None: `values`. Rows of several
            items have others, see `eval_harness.row_scores`; the mean is the same.
    """

    ids: tuple[str, ...]
    values: Floats
    to_subtract: Floats | None = None

    @property
    def paired(self) -> Floats:
        """[N] for differences by row."""
        return self.values if self.to_subtract is None else self.to_subtract


def check_evaluation(study: Study) -> None:
    """Refuses tasks, protocols, templates and data that eval-harness would refuse.

    Raises:
        DistillensError: see above; names the key.
    """
    spec = study.evaluation
    if spec is None:
        return
    from eval_harness.shared.text.first_tokens import check_add_bos_token
    from eval_harness.shared.text.template_table import check_template

    def checked(key: str, check: Callable[[], _Checked]) -> _Checked:
        try:
            return check()
        except DistillensError as error:
            raise DistillensError(f"{study.where('evaluation', key)}: {error}") from None

    choice = spec.model_args.get("add_bos_token")
    if choice is not None:
        checked("model_args", lambda: check_add_bos_token(choice, "add_bos_token"))
    checked("model_args", lambda: check_backend_arguments(spec.model, spec.model_args))
    checked("tasks", lambda: select_benchmarks(spec.tasks, find_benchmarks(), data_entries(spec)))
    samples = False
    for name in spec.protocols:
        protocol = checked("protocols", partial(make_protocol, name))
        samples |= not protocol.greedy
        changed = partial(
            make_protocol,
            name,
            gen_kwargs=spec.gen_kwargs,
            seeds=None if protocol.greedy else spec.seeds,
            max_prompt_tokens=spec.max_prompt_tokens,
        )
        checked("gen_kwargs", changed)
    if spec.seeds is not None and not samples:
        raise DistillensError(
            f"{study.where('evaluation', 'seeds')}: found {spec.seeds}, but no protocol here draws "
            "its answers; delete the key, or add a protocol that does"
        )
    if spec.template is not None:
        checked("template", partial(check_template, spec.template))


def evaluation_folder(run: Run, protocol: str) -> Path:
    return run.folder / "evaluation" / protocol


def is_evaluated(run: Run, protocol: str, *, overwrite: bool) -> bool:
    """Whether a trained run's model has been evaluated like this.

    Raises:
        DistillensError: it was evaluated with other settings; --overwrite evaluates it again.
    """
    done = evaluation_folder(run, protocol) / DONE
    if not done.is_file():
        return False
    stored = read_json(done)
    check(DoneFile, stored, str(done), expected=EXPECTED)
    if stored["fingerprint"] == _fingerprint(run, protocol):
        # A run that was trained again since, by hand in its folder, has another summary.
        return stored.get("trained") in (None, _summary_digest(run))
    if overwrite:
        return False
    raise DistillensError(
        f"{done.parent}: evaluated with other settings; change the study back, name another folder "
        "with --output_dir, or evaluate again with --overwrite"
    )


def evaluation_command(run: Run, protocol: str) -> Command:
    """The eval-harness command for a trained run's model."""
    folder = evaluation_folder(run, protocol)
    fingerprint = _fingerprint(run, protocol)

    def before() -> None:
        # Deletes answers given under other settings; keeps those of an interrupted evaluation.
        started = folder / "started.json"
        if read_json(started).get("fingerprint") != fingerprint and folder.exists():
            shutil.rmtree(folder)
        write_json(started, {"fingerprint": fingerprint})
        (folder / DONE).unlink(missing_ok=True)

    def after(seconds: float) -> None:
        done = {"fingerprint": fingerprint, "trained": _summary_digest(run)}
        write_json(folder / DONE, {**done, "seconds": round(seconds, 1)})

    return Command(
        evaluation_arguments(run, protocol),
        (run.folder / LOG).resolve(),
        working_folder=run.folder,
        before=before,
        after=after,
        writes=(folder,),
        reads=(run.train_folder / evaluation_of(run).checkpoint,),
    )


def read_scores(run: Run) -> dict[tuple[str, str, str], RowScores]:
    """(task, protocol, metric) -> the rows' scores, of what has been evaluated."""
    found: dict[tuple[str, str, str], RowScores] = {}
    spec = run.study.evaluation
    for protocol in spec.protocols if spec is not None else []:
        if not is_evaluated(run, protocol, overwrite=True):
            continue
        folder = evaluation_folder(run, protocol)
        for task, result in load_results(folder).tasks.items():
            for metric, scores in _row_scores(result.samples).items():
                found[task, protocol, metric] = scores
    return found


def reference_notes(runs: Iterable[Run]) -> list[str]:
    """What metrics cannot see of the tasks' references, which are the same for all runs."""
    notes: dict[str, None] = {}
    seen: set[str] = set()
    for run in runs:
        spec = run.study.evaluation
        for protocol in spec.protocols if spec is not None else []:
            # One run's are enough: their samples were read for the scores, and are large.
            if protocol not in seen and is_evaluated(run, protocol, overwrite=True):
                seen.add(protocol)
                for task, result in load_results(evaluation_folder(run, protocol)).tasks.items():
                    notes |= dict.fromkeys(f"{task}: {note}." for note in task_notes(result))
    return list(notes)


def _row_scores(samples: list[Sample]) -> dict[str, RowScores]:
    ids = tuple(sample.row_id for sample in samples)
    scores = {}
    for metric in metric_names(samples):
        scored = scored_by(samples, metric)
        means = row_means(row_scores(scored, metric))
        paired = row_means(row_scores(scored, metric, paired=True))
        scores[metric] = RowScores(tuple(sample.row_id for sample in scored), means, paired)
    nll = np.array([sum(sample.extra.get("reference_nll", [])) for sample in samples])
    tokens = np.array([sum(sample.extra.get("reference_tokens", [])) for sample in samples])
    if tokens.sum() > 0:
        scores[NLL] = RowScores(ids, nll * len(samples) / tokens.sum())
    return scores


def _summary_digest(run: Run) -> str:
    return content_digest(str(run.train_folder / run_folder.SUMMARY))


def _fingerprint(run: Run, protocol: str) -> str:
    spec = evaluation_of(run)
    settings = spec.model_dump(exclude={"protocols", "batch_size", "data", "together"})
    # A setting of later versions: at its default, runs that are evaluated already stay valid.
    if spec.rouge_tokenizer == "default":
        del settings["rouge_tokenizer"]
    settings["tasks"] = [_task_content(task) for task in spec.tasks]
    settings["model_args"] = {
        key: content_digest(value) if is_place(key, value) else value
        for key, value in spec.model_args.items()
    }
    return digest(
        {
            "run": run.fingerprint,
            "protocol": protocol,
            "likelihood": protocol == spec.protocols[0],
            "data": {task: content_digest(path) for task, path in spec.data.items()},
            **settings,
        }
    )


def _task_content(task: str) -> str | list[str]:
    """A benchmark file counts by its content and that of its rows, which may change alone."""
    if not is_benchmark_file(task):
        return task
    rows = load_benchmark(Path(task)).path
    return [content_digest(str(path)) for path in (Path(task), rows) if path and path.exists()]
