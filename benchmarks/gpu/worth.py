"""What the lens is worth on a pretrained teacher: the study worth.yaml, a seed at a time.

It needs what `pieces.py join` made, and keeps its runs there: a second call goes on. With --tiny it
is two methods of the same study, on the quickstart's teacher and rows.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from records import Fields, Record
from stage import Call, call_and_arguments

if TYPE_CHECKING:
    from distillens_plugin.study.report.results import Results

STUDY = Path(__file__).with_name("worth.yaml")
PIECES = STUDY.parent.parent.parent / ".worth"
METHODS = ("fkl", "lens_final", "mse", "mse_and_lens", "lens_identity", "sft")
SEEDS = [10, 20, 30]
# The middle one first: fewer rates are the likeliest.
RATES = [1e-3, 5e-4, 2e-3]
# For the table, after the runs.
TABLE_SECONDS = 15


def add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, help="of a final run; the search has half of them")
    parser.add_argument("--rows", type=int, help="of each benchmark")
    parser.add_argument("--rates", type=int, help="learning rates of the search")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time; default: one for two cores, at most 8, on a GPU"
    )


def rounds(study: Fields, seeds: list[int]) -> list[Fields]:
    """A study with a seed more each time, at equal steps, and in the end at equal time too.

    Each ends with evaluations: wherever the time is up, there are scores of some seeds.
    """
    steps_only = {**study, "budget": {"equal_compute": None}}
    grown = [{**steps_only, "seeds": seeds[: count + 1]} for count in range(len(seeds))]
    return [*grown, {**study, "seeds": seeds}]


def changes(given: argparse.Namespace) -> Fields:
    """worth.yaml, and what the call's sizes change in it."""
    study: Fields = {"base": str(STUDY), "output_dir": str(PIECES / "study")}
    if given.steps is not None:
        study["set"] = {"steps": given.steps}
        study["tune"] = {"set": {"steps": max(1, given.steps // 2)}}
    if given.rows is not None:
        study["evaluation"] = {"limit": given.rows}
    if given.rates == 1:
        # Nothing to search.
        study["tune"] = None
        study["methods"] = {name: {"tune": None, "set": {"lr": RATES[0]}} for name in METHODS}
    elif given.rates is not None:
        tune = {"lr": RATES[: given.rates]}
        study["methods"] = {name: {"tune": tune} for name in METHODS}
    return study


def tiny_study(out: Path) -> Fields:
    """Search, equal steps, equal time and evaluation on the quickstart's teacher and rows."""
    quickstart = STUDY.parent.parent.parent / "recipes" / "quickstart"
    layers = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.layers"
    rows = {"path": str(quickstart / "train.jsonl"), "num_rows": 64, "template": "question"}
    return {
        "base": str(STUDY),
        "output_dir": str(out / "worth.study"),
        "set": {
            "steps": 12,
            "models.teacher_model.name_or_path": str(quickstart / "teacher"),
            "models.student_model.init.from_teacher_layers": [0, 3],
            "datasets.train.path": None,
            "datasets.train": {**rows, "max_length": 256, "max_prompt_length": 128},
            "datasets.validation": {"path": str(quickstart / "valid.jsonl"), "num_rows": 8},
            "train.train_data_loader.kwargs.batch_size": 4,
            "mixed_precision": "no",
            "threads": 1,
        },
        "tune": {"set": {"steps": 6}},
        "methods": {
            **dict.fromkeys(METHODS),
            "fkl": {"tune": {"lr": RATES[:2]}},
            "lens_final": {"tune": None, "set": {layers: {"student": [1], "teacher": [2]}}},
        },
        "budget": {"equal_compute": {"methods": ["fkl"]}},
        "evaluation": {
            **{"tasks": ["gsm8k"], "data": None, "limit": 6, "max_prompt_tokens": 128},
            **{"gen_kwargs": {"max_new_tokens": 8}, "batch_size": 6},
        },
    }


def default_jobs(device: str) -> int:
    """Small runs leave most of a card idle while they start, read rows and save."""
    return min(8, max(1, (os.cpu_count() or 1) // 2)) if device == "cuda" else 1


def run_study(file: Path, jobs: int, seconds: float, log: Path) -> int:
    """`distillens study` for at most so long; its exit code, 124 if its time was up.

    It ends in the middle of a run, if need be; that run begins anew in another call.
    """
    command = [sys.executable, "-m", "distillens_plugin.cli", "study", str(file)]
    command += ["--jobs", str(jobs), "--overwrite"]
    with log.open("ab") as output:
        run = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            return run.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(timeout=5)
            # Its runs end with it.
            run.kill()
            run.wait()
            return 124


def cases(call: Call, given: argparse.Namespace) -> int:
    """All methods, seed after seed; then a case for each method and budget."""
    record = call.record("worth")
    if not call.tiny and not (PIECES / "teacher" / "model.safetensors").is_file():
        record.add("pieces", ok=False, error=f"{PIECES}: no teacher; run pieces.py join first")
        record.finish()
        return 1
    if call.device.type == "cpu":
        os.environ.update(ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    jobs = given.jobs or default_jobs(call.device.type)
    if call.tiny:
        studies = rounds(tiny_study(call.out), SEEDS[:2])[1:]
        shutil.rmtree(call.out / "worth.study", ignore_errors=True)
    else:
        studies = rounds(changes(given), SEEDS)
    file, log = call.out / "worth.study.yaml", call.out / "worth.study.log"
    log.unlink(missing_ok=True)
    for study in studies:
        # JSON is YAML.
        file.write_text(json.dumps(study, indent=1) + "\n", encoding="utf-8")
        began = time.monotonic()
        code = run_study(file, jobs, record.seconds_left - TABLE_SECONDS, log)
        fields: Fields = {"ok": code == 0, "seeds": study["seeds"], "jobs": jobs}
        equal = "time" if study is studies[-1] else "steps"
        fields["seconds"] = round(time.monotonic() - began, 1)
        if code != 0:
            tail = log.read_text(encoding="utf-8", errors="replace")[-250:]
            fields["error"] = "the time was up" if code == 124 else f"exit code {code}: {tail}"
        record.add(f"equal {equal}, seeds {len(study['seeds'])}", **fields)
        if code == 124:
            break
        # A run that failed is named in the log; the others go on.
    # The table of what there is was what the time was for.
    record.ends = max(record.ends, time.monotonic() + TABLE_SECONDS)
    report(record, file, call.out)
    record.finish()
    return int(not all(case["ok"] for case in record.cases))


def report(record: Record, file: Path, out: Path) -> None:
    """A case for each method that has run, and the study's own table beside them."""
    from distillens_plugin.study.load import load_study
    from distillens_plugin.study.report.csv_table import csv_table
    from distillens_plugin.study.report.results import collect

    def read() -> Fields:
        results = collect(load_study(file))
        (out / "worth.csv").write_text(csv_table(results), encoding="utf-8")
        for budget, table in results.tables.items():
            for name in table.cells:
                case = f"{budget}: {results.study.label(name)}"
                record.add(case, **figures(results, budget, name))
        page = Path(results.study.output_dir) / "report.md"
        if page.is_file():
            shutil.copyfile(page, out / "worth.md")
        return {"missing": len(results.missing), "values": results.missing}

    record.run("the study's table", read)


def figures(results: "Results", budget: str, name: str) -> Fields:
    """A method's scores with their 95 % intervals, its differences from FKL, and its cost."""
    table, cost = results.tables[budget], results.costs[budget][name]
    settings = results.choices[name].settings
    fields: Fields = {"ok": True, "seeds": cost.num_runs, **settings}
    fields |= {"steps": cost.num_steps, "train_seconds": round(cost.train_seconds, 1)}
    for metric, cell in table.cells[name].items():
        fields[metric.title] = round(cell.mean, 4)
        if cell.interval is not None:
            fields[f"{metric.title}: interval"] = [round(end, 4) for end in cell.interval]
    for one in table.differences:
        if one.method == name:
            paired = one.paired
            fields[f"{one.metric.title}: minus {one.reference}"] = {
                "difference": short(paired.difference),
                "interval": [short(paired.low), short(paired.high)],
                "holm_p": short(one.adjusted_p),
                "verdict": one.verdict,
            }
    return fields


def short(value: float | None) -> float | None:
    """Four decimals; None where there is no value, as of the p of a single seed."""
    return None if value is None else round(value, 4)


def main() -> int:
    call, given = call_and_arguments(__doc__ or "", add_sizes)
    return cases(call, given)


if __name__ == "__main__":
    sys.exit(main())
