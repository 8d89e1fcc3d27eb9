"""Joins a Ray cluster, and looks which of its nodes can take part in a study."""

import contextlib
import logging
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillens_plugin.study.cluster_worker import NodeReport, look_around, version
from eval_harness.errors import DistillensError
from eval_harness.shared.program.early import ENDING_SIGNALS

_ADDRESS = re.compile(r"auto|(?:ray://)?(?P<host>[^\s/:]+):(?P<port>\d{1,5})")
_REACH_S = 10.0
_ANSWER_S = 120.0
# A network file system may show another machine's new file late.
_VISIBLE_S = 5.0


@dataclass(frozen=True)
class Share:
    """What each run gets of a node.

    Attributes:
        gpus: 1, none, or a part of one.
    """

    cpus: int
    gpus: float

    def fits(self, resources: dict[str, float]) -> int:
        """How many runs a node with these resources takes at once."""
        times = int(resources.get("CPU", 0) // self.cpus)
        return min(times, int(resources.get("GPU", 0) / self.gpus)) if self.gpus else times


def check_address(address: str) -> None:
    """Refuses what is not an address, and a Python without Ray.

    Raises:
        DistillensError: see above.
    """
    if not _ADDRESS.fullmatch(address):
        raise DistillensError(
            f"--ray {address}: expected auto, HOST:PORT of a cluster that this machine belongs to, "
            "or ray://HOST:PORT"
        )
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise DistillensError(
            "--ray: Ray is not installed; pip install 'distillens[ray]', on every node of the "
            "cluster"
        ) from error


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Joins the cluster; leaves it at the end, which ends all that still runs there for us.

    Raises:
        DistillensError: there is no cluster at the address, or it has other versions.
    """
    import ray

    _reach(address)
    # Ray replaces the handler of SIGTERM by one that leaves nobody time to cancel tasks.
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DistillensError(
            f"--ray {address}: cannot join the cluster: {said}; start one with ray start --head"
        ) from error
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself would try for minutes, and print what it tries."""
    found = _ADDRESS.fullmatch(address)
    if found is None or found["host"] is None:
        return
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=_REACH_S).close()
    except OSError as error:
        raise DistillensError(
            f"--ray {address}: nothing answers there ({error.strerror or error}); start a cluster "
            "with ray start --head, which prints its address"
        ) from error


def alive_nodes() -> list[dict[str, object]]:
    """What Ray says of the nodes that live."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def resources(node: dict[str, object]) -> dict[str, float]:
    found = node["Resources"]
    assert isinstance(found, dict)
    return found


def has_gpus() -> bool:
    """Whether any node has one."""
    return any(resources(node).get("GPU", 0) for node in alive_nodes())


@contextlib.contextmanager
def mark_in(folder: Path) -> Iterator[Path]:
    """A file of a random name: who finds it in the same place shares the folder."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".shared-{secrets.token_hex(8)}"
    mark.write_text(mark.name, encoding="ascii")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, as a rule
            if is_new:
                folder.rmdir()


def nodes_that_share(
    share: Share, mark: Path, needed: Sequence[Path], say: Callable[[str], None]
) -> bool:
    """Whether all nodes that could take a run see the study's folder.

    Args:
        needed: what a run reads from outside the study's folder.
    Raises:
        DistillensError: a node has another version of distillens, lacks something that is needed,
            has results of its own in the study's place, or does not answer.
    """
    nodes = [node for node in alive_nodes() if share.fits(resources(node))]
    if not nodes:
        gpus = f" and {share.gpus:g} GPUs" if share.gpus else ""
        say(f"no node of the cluster has {share.cpus} CPUs{gpus}; runs wait until one joins")
        return True
    everywhere = True
    for report, answer in _reports(nodes, mark, needed):
        here = version()
        if report.version != here:
            raise DistillensError(
                f"--ray: {report.host} has distillens {report.version}, found {here} here; install "
                "the same version on every node"
            )
        if report.missing:
            raise DistillensError(
                f"--ray: {report.host} has no {report.missing[0]}; a study's recipes, data, models "
                "and working folder must lie in the same places on every node"
            )
        if report.has_another:
            raise DistillensError(
                f"--ray: {report.host} has a folder {mark.parent} with other files, which copies "
                "would replace; mount this machine's there, remove it, or give another "
                "--output_dir"
            )
        if not (report.shared and _appears(answer)):
            say(f"{report.host} does not share {mark.parent}")
            everywhere = False
        answer.unlink(missing_ok=True)
    return everywhere


def _reports(
    nodes: Sequence[dict[str, object]], mark: Path, needed: Sequence[Path]
) -> list[tuple[NodeReport, Path]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(look_around)
    asked = []
    for number, node in enumerate(nodes):
        here = NodeAffinitySchedulingStrategy(str(node["NodeID"]), soft=False)
        answer = mark.with_name(f"{mark.name}.{number}")
        asked.append(
            (
                ask.options(scheduling_strategy=here).remote(mark, mark.name, answer, needed),
                answer,
                str(node.get("NodeManagerHostname")),
            )
        )
    found = []
    for reference, answer, host in asked:
        try:
            found.append((ray.get(reference, timeout=_ANSWER_S), answer))
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[-300:]
            raise DistillensError(
                f"--ray: {host} cannot run distillens ({said}); install it on every node"
            ) from error
    return found


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _VISIBLE_S
    while not path.is_file():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
