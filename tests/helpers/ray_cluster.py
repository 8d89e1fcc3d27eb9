"""A Ray cluster of several nodes on this machine, small and sure to be gone at the end."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextlib.contextmanager
def ray_cluster() -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with a head that has no CPU for runs.

    Its folder is in the environment, so that `auto` finds it and no other.
    """
    # Sockets lie in it, whose paths may have 107 bytes: pytest's folders are too deep.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    os.makedirs(Path(folder, "ray"))
    changed = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ |= changed
    cluster = None
    try:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "num_cpus": 0})
        yield cluster
    finally:
        if cluster is not None:
            cluster.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
