"""Two systems with answers of known lengths, and a judge on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_judge import MODEL, FakeJudge
from fake_server import running
from result_samples import save_answers


@pytest.fixture
def systems(tmp_path: Path) -> tuple[Path, Path]:
    """Ten rows: `long` is the longer in seven, `short` in two, and one is as long in both."""
    long = [[f"long {n} " + "x" * (10 if n < 7 else 2), "second seed"] for n in range(10)]
    short = [[f"shrt {n} " + "x" * (5 if n < 9 else 2), "second"] for n in range(10)]
    return save_answers(tmp_path, "long", long), save_answers(tmp_path, "short", short)


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
