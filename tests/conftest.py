"""What every test shares: a quiet, offline, single-threaded process, and shared/."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import warm_python

# Before anything keeps the name subprocess.Popen.
warm_python.install()

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and commands keep to that;
# the tests send both.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and model outputs beside the checkout; a user's clone has none."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder} is missing, and CI must have it")
        pytest.skip("needs the shared/ folder beside the checkout, which a clone does not have")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first: torch.compile starts threads that no fork survives."""
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "forked"))


@pytest.fixture(autouse=True)
def fresh_accelerate_state() -> Iterator[None]:
    """accelerate keeps one precision a process: a test that chose another leaves none behind."""
    yield
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        if AcceleratorState._shared_state.get("_mixed_precision", "no") != "no":
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A library that changes the environment for good would slow all later tests down, unseen."""
    changed = warm_python.changed()
    if changed:
        print(f"\nprocesses were not forked: {changed} differ; see tests/helpers/warm_python.py")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def cold_python() -> Iterator[None]:
    """Processes that import all for themselves, as a user's do (helpers/warm_python.py)."""
    with warm_python.cold():
        yield


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone, which DDP asks for."""
    import torch

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()
