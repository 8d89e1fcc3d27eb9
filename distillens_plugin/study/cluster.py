"""A study's commands as tasks of a Ray cluster.

A task runs one command as a child process of a Ray worker. A worker that dies with its node loses
its command alone: the command is run again elsewhere, and resumes from what it has saved.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distillens_plugin.study.child import failure
from distillens_plugin.study.cluster_connection import (
    Share,
    alive_nodes,
    connected,
    has_gpus,
    mark_in,
    nodes_that_share,
    resources,
)
from distillens_plugin.study.cluster_worker import (
    Outcome,
    Parcel,
    Task,
    clear,
    fetch,
    run_task,
    store,
)
from distillens_plugin.study.digests import content_digest
from distillens_plugin.study.executor import Command, Ended, Started
from distillens_plugin.study.spec import Study
from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest

if TYPE_CHECKING:
    from ray import ObjectRef

# The first try included: a command that kills its worker each time must not do so for ever.
_TRIES = 4
# More than a worker gives its child.
_GRACE_S = 110.0
_CLEAR_S = 30.0


@contextlib.contextmanager
def ray_executor(
    study: Study,
    address: str,
    *,
    cpus: int,
    gpus: float | None,
    limit: int | None,
    results: Literal["shared", "copied"] | None,
    say: Callable[[str], None],
) -> Iterator["RayExecutor"]:
    """An executor on the cluster at `address`, after a look at its nodes.

    Args:
        cpus, gpus: of each run; no `gpus`: 1 where the cluster has any.
        limit: runs at a time; None: as many as fit.
        results: how the study's files get to the nodes and back; None finds out.
        say: prints a line.
    Raises:
        DistillensError: there is no such cluster, or one of its nodes cannot take part.
    """
    folder = Path(study.output_dir).absolute()
    with connected(address), mark_in(folder) as mark:
        share = Share(cpus, gpus if gpus is not None else float(has_gpus()))
        everywhere = nodes_that_share(share, mark, _needed(study), say)
        if results == "shared" and not everywhere:
            raise DistillensError(
                f"--ray_results shared: not every node sees {folder}; mount it there, or give "
                "--ray_results copied"
            )
        copied = results == "copied" or not everywhere
        executor = RayExecutor(study, share, mark, copied=copied, limit=limit, say=say)
        many = executor.at_once()
        say(
            f"{address}: {len(alive_nodes())} nodes, {many} runs at once; results "
            + ("are copied to and from nodes that do not share the folder" if copied else "shared")
        )
        try:
            yield executor
        finally:
            if copied:
                executor.clear_nodes()


def _needed(study: Study) -> list[Path]:
    fragments = [name for method in study.methods.values() for name in method.fragments]
    return [Path.cwd(), *(Path(os.path.abspath(name)) for name in (study.recipe, *fragments))]


class RayExecutor:
    """Commands as Ray tasks.

    Args:
        mark: in the study's folder; see `cluster_connection.mark_in`.
        copied: nodes that do not share the folder get copies, and send back what they write.
    """

    poll_s = 0.5
    # A lost worker would lose the work of all of them, and nodes would stand idle.
    takes_groups = False

    def __init__(
        self,
        study: Study,
        share: Share,
        mark: Path,
        *,
        copied: bool,
        limit: int | None,
        say: Callable[[str], None],
    ) -> None:
        import ray

        self.limit = limit
        self.say = say
        self._trusted = study.is_trusted
        self._share, self._mark, self._copied = share, mark, copied
        self._folder = mark.parent
        self._environment = {"OMP_NUM_THREADS": str(share.cpus)}
        if not share.gpus:
            # Ray leaves a task without GPUs all of them.
            self._environment["CUDA_VISIBLE_DEVICES"] = ""
        # Retries are ours: they are bounded, and said.
        self._remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(run_task)

    def at_once(self) -> int:
        fitting = sum(self._share.fits(resources(node)) for node in alive_nodes())
        return max(1, min(fitting, self.limit or fitting))

    def start(self, command: Command, lock: int | None) -> Started:
        return _Started(self, command)

    def submit(self, command: Command) -> "ObjectRef[Outcome]":
        """Queues a command; its task is made anew each time, with what has been saved by then."""
        assert command.arguments[0] == sys.executable
        working_folder = command.working_folder or Path.cwd()
        return self._remote.remote(
            Task(
                arguments=tuple(command.arguments[1:]),
                log=command.log.absolute(),
                working_folder=working_folder.absolute(),
                environment=self._environment,
                trusted=self._trusted,
                writes=tuple(path.absolute() for path in command.writes),
                study=self._folder,
                mark=self._mark,
                parcels=self._parcels(command) if self._copied else None,
            )
        )

    def take(self, command: Command, outcome: Outcome) -> None:
        """Puts what a node has sent into the study's folder."""
        if outcome.result is not None:
            fetch(outcome.result, self._folder)
            with command.log.open("ab") as log:
                log.write(outcome.log)

    def end(self, started: Sequence[Started]) -> None:
        import ray

        references = [task.reference for task in started if isinstance(task, _Started)]
        for force in (False, True):
            for reference in references:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(reference, force=force)
            if references:
                _, references = ray.wait(references, num_returns=len(references), timeout=_GRACE_S)

    def clear_nodes(self) -> None:
        """Removes the copies that nodes have got."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = ray.remote(num_cpus=0, max_retries=0)(clear)
        asked = [
            ask.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(str(node["NodeID"]), soft=False)
            ).remote(self._folder, self._mark)
            for node in alive_nodes()
        ]
        # A node that has just been lost, or has no room for a worker, keeps its copies.
        ray.wait(asked, num_returns=len(asked), timeout=_CLEAR_S)

    def _parcels(self, command: Command) -> tuple[Parcel, ...]:
        parcels = []
        for path in (path.absolute() for path in command.reads if path.exists()):
            name = digest([str(path), content_digest(str(path))])
            parcels.append(Parcel((path,), store(self._folder, [path]), name))
        writes = tuple(path.absolute() for path in command.writes)
        return (*parcels, Parcel(writes, store(self._folder, writes)))


class _Started:
    """A task in the queue or at work, run again if its worker dies."""

    def __init__(self, executor: RayExecutor, command: Command) -> None:
        self._executor, self._command = executor, command
        self._tries = 1
        self.reference = executor.submit(command)

    def poll(self) -> Ended | None:
        import ray

        done, _ = ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            outcome = ray.get(self.reference)
            self._executor.take(self._command, outcome)
        except ray.exceptions.RayTaskError as error:
            return Ended(0.0, _one_line(error.cause or error))
        except ray.exceptions.TaskCancelledError:
            return Ended(0.0, "its task was cancelled")
        except ray.exceptions.RayError as error:
            return self._again(error)
        except (DistillensError, OSError) as error:
            return Ended(0.0, str(error))
        said = failure(outcome.code, self._command.log, f"{outcome.said} (on {outcome.host})")
        return Ended(outcome.seconds, said)

    def _again(self, error: BaseException) -> Ended | None:
        """The worker or its node is gone."""
        why = f"its worker was lost ({type(error).__name__})"
        if self._tries == _TRIES:
            return Ended(0.0, f"{why}, {_TRIES} times")
        self._tries += 1
        self._executor.say(f"{self._command.log.parent}: {why}; try {self._tries} of {_TRIES}")
        self.reference = self._executor.submit(self._command)
        return None


def _one_line(error: BaseException) -> str:
    if isinstance(error, DistillensError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
