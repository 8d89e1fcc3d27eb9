"""Batches dealt to processes."""

import random

import pytest

from eval_harness.generation.dealing import dealt


def test_the_dearest_go_first_to_whoever_has_least():
    assert dealt([1, 5, 4, 3], 2) == [[1, 0], [2, 3]]
    assert dealt([2], 3) == [[0], [], []]
    assert dealt([], 2) == [[], []]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_each_batch_is_dealt_once_and_loads_are_even(num_processes):
    rng = random.Random(num_processes)
    costs = [rng.randint(1, 300) for _ in range(100)]
    shares = dealt(costs, num_processes)
    assert sorted(batch for share in shares for batch in share) == list(range(100))
    loads = [sum(costs[batch] for batch in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs)
    assert max(loads) <= 4 / 3 * max(sum(costs) / num_processes, max(costs))
