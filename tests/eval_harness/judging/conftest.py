"""Two systems with answers of known lengths, and a judge on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_judge import MODEL, FakeJudge
from fake_server import running
from result_samples import make_results, make_samples, make_task

from eval_harness.results.folder import write_results


def save(folder: Path, name: str, answers: list[list[str]], task: str = "small") -> Path:
    """A results folder; row n asks "Question n?" and its reference is right."""
    samples = make_samples(answers)
    for sample in samples:
        sample.doc["output"] = sample.target
    return write_results(make_results(name, make_task(task, samples)), folder).parent


@pytest.fixture
def systems(tmp_path: Path) -> tuple[Path, Path]:
    """Ten rows: `long` is the longer in seven, `short` in two, and one is as long in both."""
    long = [[f"long {n} " + "x" * (10 if n < 7 else 2), "second seed"] for n in range(10)]
    short = [[f"shrt {n} " + "x" * (5 if n < 9 else 2), "second"] for n in range(10)]
    return save(tmp_path, "long", long), save(tmp_path, "short", short)


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    with running(FakeJudge()) as server:
        assert isinstance(server, FakeJudge)
        yield server


@pytest.fixture
def arguments(systems: tuple[Path, Path], fake: FakeJudge, tmp_path: Path) -> list[str]:
    """Of a run that works."""
    return [
        "judge",
        *map(str, systems),
        f"--base_url={fake.url}/v1",
        f"--judge_model={MODEL}",
        f"--output_path={tmp_path / 'judged'}",
    ]
