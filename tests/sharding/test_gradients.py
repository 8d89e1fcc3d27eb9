"""Gradients of cross-entropy, KD and the lens with both models in pieces: those of one process."""

import pytest
import torch
from accelerate import Accelerator
from fsdp_on_cpu import FSDP2, HSDP, ranks
from sharded_cases import CASES, ON_FOUR, gradients_of, worst_difference

WITHIN = 4000  # roundings of float64, 2.2e-16, are 1e-12


@pytest.fixture(scope="module")
def alone():
    """By case, of one process with whole models."""
    accelerator = Accelerator(cpu=True)
    return {name: gradients_of(case, accelerator, sharded=False) for name, case in CASES.items()}


def sharded(folder, names, **keywords):
    done = ranks("fsdp_gradients.py", folder / "out.pt", ",".join(names), **keywords)
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(folder / "out.pt", weights_only=True)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    return sharded(tmp_path_factory.mktemp("two"), CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_processes(name, on_two, alone):
    error, where = worst_difference(CASES[name], on_two[name], alone[name])
    assert error < WITHIN, where


def test_four_processes(tmp_path, alone):
    for name, found in sharded(tmp_path, ON_FOUR, processes=4, environment=FSDP2).items():
        error, where = worst_difference(CASES[name], found, alone[name])
        assert error < WITHIN, (name, where)


def test_two_groups_of_two(tmp_path, alone):
    found = sharded(tmp_path, ["llama tied"], processes=4, environment=HSDP)
    error, where = worst_difference(CASES["llama tied"], found["llama tied"], alone["llama tied"])
    assert error < WITHIN, where
