"""A study's commands as child processes on this machine."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from distillens_plugin.study.child import end_children, failure, import_paths, start_child
from distillens_plugin.study.executor import Command, Ended, Started


class LocalExecutor:
    """Child processes, one for each slot at a time.

    Args:
        slots: the environment of each, from `environments`.
        trusted: whether children may import modules that lie in their working folder.
    """

    poll_s = 0.1
    takes_groups = True

    def __init__(self, slots: Sequence[dict[str, str]], *, trusted: bool) -> None:
        isolation = import_paths(trusted=trusted)
        self._free = [{**slot, **isolation} for slot in slots]
        self.limit: int | None = len(slots)

    def at_once(self) -> int:
        return self.limit or 1

    def start(self, command: Command, lock: int | None) -> Started:
        environment = self._free[0]
        process = start_child(
            command.arguments,
            command.log,
            environment=environment,
            working_folder=command.working_folder,
            lock=lock,
        )
        return _Child(process, command.log, self._free, self._free.pop(0))

    def end(self, started: Sequence[Started]) -> None:
        end_children([child.process for child in started if isinstance(child, _Child)])


class _Child:
    """A running child; when it has ended, its slot's environment is free again."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: Path,
        free: list[dict[str, str]],
        environment: dict[str, str],
    ) -> None:
        self.process = process
        self._log, self._free, self._environment = log, free, environment
        self._since = time.monotonic()

    def poll(self) -> Ended | None:
        code = self.process.poll()
        if code is None:
            return None
        self._free.insert(0, self._environment)
        return Ended(time.monotonic() - self._since, failure(code, self._log))


def environments(num_jobs: int | None) -> list[dict[str, str]]:
    """The environment of each slot: a GPU each if there are any, else one CPU thread each.

    Args:
        num_jobs: slots; None: one for each GPU, one on a CPU. More slots than GPUs share them.
    """
    gpus = _gpus()
    if not gpus:
        return [{"OMP_NUM_THREADS": "1"}] * (num_jobs or 1)
    count = num_jobs or len(gpus)
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(count)]


def _gpus() -> list[str]:
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()][:count]
    return [str(index) for index in range(count)]
