"""`distillens run` in a forked process: real signals and exit codes, without seconds of imports.

The parent has imported all that a run needs, so that a child starts at once; each child has its own
memory, files and signals, and may be killed.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Loaded before the fork: what takes seconds, and what a child would load lazily.
import transformers.models.gpt2.modeling_gpt2  # noqa: F401
from run_process import ENVIRONMENT, change
from tiny_run import ASSETS, tiny_recipe

import distillens_plugin.training.lens_readings
import distillens_plugin.training.train  # noqa: F401
from distillens_plugin import run

# What Python tells of before it does it, and a run does to its output folder.
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "open"}

# A term that trains parameters of its own.
TERMS = "train.criterion.kwargs.sub_terms"
MSE = {
    "criterion": {
        "key": "distillens.hidden_mse",
        "kwargs": {"layers": {"student": [1], "teacher": [2]}, "projection": "per_pair"},
    },
    "weight": 0.5,
}


@dataclass
class Ended:
    """How a run ended: as subprocess.CompletedProcess; negative codes are signals."""

    returncode: int
    stdout: str
    stderr: str


def _forget_precision() -> None:
    """Of an earlier run in the parent; accelerate keeps one for a process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Forked:
    """A run in a child process.

    Args:
        arguments: of `distillens run`.
        at_change: (number, signal): the child sends itself the signal right before its n-th change
            in the output folder, of those that Python tells of.
        without_exchange: as on a file system where two names cannot be exchanged in one step.
        before: called in the child first.
    """

    def __init__(
        self, *arguments, output, at_change=None, without_exchange=False, before=None, log=None
    ):
        self.output = Path(output)
        self.log = Path(log or self.output.with_name(f"{self.output.name}-log"))
        self.log.mkdir(exist_ok=True)
        self.pid = os.fork()
        if self.pid == 0:
            self._child([*map(str, arguments)], at_change, without_exchange, before)

    def _child(self, arguments, at_change, without_exchange, before):
        code = 70
        try:
            os.environ.update(ENVIRONMENT)
            for descriptor, name in ((1, "stdout"), (2, "stderr")):
                file = os.open(self.log / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
                os.dup2(file, descriptor)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _forget_precision()
            if without_exchange:
                from eval_harness.shared.files import exchange

                exchange._renameat2 = lambda: None
            if before is not None:
                before()
            changes = _count_changes(self.output, at_change)
            code = run.main([*arguments, "--output_dir", str(self.output)])
            (self.log / "changes").write_text(str(changes[0]), encoding="ascii")
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def running(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = status
        return not pid

    def wait(self, timeout_s=200):
        deadline = time.monotonic() + timeout_s
        while not hasattr(self, "status") and self.running():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(self.output)
            time.sleep(0.01)
        texts = [(self.log / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return Ended(os.waitstatus_to_exitcode(self.status), *texts)

    def num_changes(self):
        """Of a run that has ended by itself."""
        return int((self.log / "changes").read_text(encoding="ascii"))


def forked(*arguments, **keywords):
    """Runs to the end."""
    return Forked(*arguments, **keywords).wait()


def _count_changes(output, at_change):
    place, changes = str(output), [0]

    def hook(event, arguments):
        if event not in _CHANGES or not any(str(a).startswith(place) for a in arguments[:2]):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        changes[0] += 1
        if at_change is not None and changes[0] == at_change[0]:
            os.kill(os.getpid(), at_change[1])

    sys.addaudithook(hook)
    return changes


def quick_recipe(folder, *, num_epochs=3, **changes):
    """A recipe of 3 epochs of 2 steps, with dropout, warm-up and a schedule.

    Args:
        changes: dotted keys, with __ for dots.
    """
    path = tiny_recipe(folder)
    train = {
        "path": "./train.jsonl",
        "max_length": 128,
        "max_prompt_length": 80,
        "long_prompts": "cut",
    }
    for name, num_rows in (("train", 6), ("valid", 3)):
        text = (ASSETS / f"{name}.jsonl").read_text(encoding="utf-8")
        rows = "".join(f"{line}\n" for line in text.split("\n")[:num_rows])
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    change(path, "datasets.train", train)
    change(path, "datasets.validation", {"path": "./valid.jsonl"})
    change(path, "train.num_epochs", num_epochs)
    change(path, "train.train_data_loader.kwargs.batch_size", 3)
    change(path, "train.scheduler.kwargs.warmup_steps", 2)
    change(path, "samples.num_rows", 0)
    # What is measured does not depend on the pace.
    change(path, "report.max_share", 1)
    for key, value in changes.items():
        change(path, key.replace("__", "."), value)
    return path


def kill_after_states(number):
    """For `before`: ends the child by SIGKILL when it has kept this many states."""

    def patch():
        from distillens_plugin.training import lifecycle

        keep, kept = lifecycle.save_state, []

        def save_state(*arguments, **settings):
            keep(*arguments, **settings)
            kept.append(1)
            if len(kept) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        lifecycle.save_state = save_state

    return patch


def what_it_left(folder):
    """All results of a finished run that do not depend on its pace: to be compared with `==`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    for line in found.pop("metrics.jsonl").split(b"\n"):
        if line:
            record = json.loads(line)
            for pace in ("tokens_per_s", "peak_memory_bytes"):
                record.pop(pace, None)
            found.setdefault("records", []).append(record)
    for line in found.pop("lens.jsonl", b"").split(b"\n"):
        if line:
            # Of a teacher with a cache nothing is read once its states alone are loaded.
            reading = {key: json.loads(line)[key] for key in ("step", "norm", "student")}
            found.setdefault("readings", []).append(reading)
    summary = json.loads(found.pop("summary.json"))
    paces = ("seconds", "train_seconds", "seconds_per_step", "tokens_per_s", "peak_memory_bytes")
    paces += ("report_seconds", "report_share")
    found["summary"] = {key: value for key, value in summary.items() if key not in paces}
    return found
