"""Batches dealt to processes so that all of them are busy about equally long."""

from collections.abc import Sequence


def dealt(costs: Sequence[float], num_processes: int) -> list[list[int]]:
    """The batches of each process, by index, the dearest first.

    Each batch, from the dearest on, goes to the process with the least to do so far: at most 4/3 of
    the best possible time (Graham 1969), and usually very near it.

    Args:
        costs: of each batch, in any unit.
        num_processes: at least 1; those without a batch get an empty list.
    """
    order = sorted(range(len(costs)), key=lambda batch: -costs[batch])
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    loads = [0.0] * num_processes
    for batch in order:
        process = loads.index(min(loads))
        shares[process].append(batch)
        loads[process] += costs[batch]
    return shares
