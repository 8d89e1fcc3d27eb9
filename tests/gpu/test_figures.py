"""benchmarks/gpu: what its times, peaks and FLOPs are of, and what they are compared with."""

import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "gpu"
sys.path.append(str(SCRIPTS))

import clock  # noqa: E402
import fast  # noqa: E402
import steps  # noqa: E402
from fast_exact import exact, largest_error  # noqa: E402
from fast_kernel import through_kernel, tuned  # noqa: E402
from fast_problem import Problem, fused, timed  # noqa: E402
from records import Record  # noqa: E402
from stage import Call  # noqa: E402

from distillens_plugin.fused import triton_segment  # noqa: E402


class Allocator:
    """A GPU's memory, in MiB: 10 of inputs; a call makes 3 of gradients that it leaves behind."""

    held, most = 10, 10
    gradients = 0

    def __init__(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: self.held * clock.MEBIBYTE)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: self.most * clock.MEBIBYTE)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.forget)
        monkeypatch.setattr(clock, "milliseconds", lambda call, device: 1.0)

    def forget(self):
        self.most = self.held

    def drop(self):
        self.held, self.gradients = self.held - self.gradients, 0

    def call(self):
        self.drop()
        self.most = max(self.most, self.held + 7)
        self.held, self.gradients = self.held + 3, 3


def test_gradients_of_the_call_before_are_not_taken_off_the_peak(monkeypatch):
    memory = Allocator(monkeypatch)
    found = clock.measure([memory.call], torch.device("cuda"), reset=memory.drop)
    assert found["peak_mib"] == 7


def tiny_problem(seed=0):
    return Problem(torch.device("cpu"), 16, 97, 8, 12, seed=seed)


def test_a_method_is_timed_from_its_inputs_alone(monkeypatch):
    """Peak memory is read where `reset` has just been called."""
    made = [tiny_problem(), tiny_problem(1)]

    def measured(calls, device, *, reset):
        for call in calls:
            call()
        assert all(problem.weight.grad is not None for problem in made)
        reset()
        assert all(p.weight.grad is p.hidden.grad is None for p in made)
        return {"ms": 1.0}

    monkeypatch.setattr(sys.modules["fast_problem"], "measure", measured)
    assert timed(made, fused) == {"ms": 1.0}


@pytest.mark.parametrize(
    ("runs", "fails", "ok"), [(2, False, True), (0, False, False), (1, True, False)]
)
def test_a_time_that_is_not_the_kernels_is_not_ok(runs, fails, ok, monkeypatch):
    monkeypatch.setattr(triton_segment.State, "failed", True)  # in an earlier case
    monkeypatch.setattr(triton_segment.State, "launches", 5)

    def run():
        assert not triton_segment.State.failed
        triton_segment.State.launches += runs
        triton_segment.State.failed = fails
        return {"ms": 1.0}

    found = through_kernel(torch.device("cuda"), run)
    assert found.get("ok", True) == ok
    assert (found["launches"], found["ms"]) == (runs, 1.0)


def test_columns_that_are_added_to_a_problem_change_nothing_else():
    problem = tiny_problem()
    wider = problem.aligned(64)
    assert (wider.vocab, len(wider.weight), len(wider.teacher_weight)) == (128, 128, 128)
    assert wider.flops / problem.flops == pytest.approx(128 / 97)
    assert torch.equal(wider.weight[:97], problem.weight)
    assert (problem.vocab, len(problem.weight)) == (97, 97)


def test_other_code_is_measured_on_aligned_columns_too():
    """And the compiled competitor early: the time may be up before the last."""
    sizes = list(fast.sizes(Call(torch.device("cpu"), Path(), 60, tiny=False)))
    aligned = [at for at in sizes if at[2] == fast.ALIGNED]
    assert aligned == [("gpt2", fast.COMPILED_ROWS, fast.ALIGNED)]
    assert sizes.index(aligned[0]) < len(sizes) / 2
    made = fast.problems(Call(torch.device("cpu"), Path(), 60, tiny=True), *aligned[0])
    assert made[0].vocab % fast.ALIGNED == 0


def test_the_floor_of_a_comparison_has_aligned_columns(tmp_path, monkeypatch):
    times = iter((100.0, 20.0, 30.0, 90.0))
    monkeypatch.setattr(fast, "timed", lambda made, method: {"ms": next(times)})
    record = Record("fast", tmp_path, torch.device("cpu"), seconds=60)
    fast.compared(record, "tiny", [tiny_problem()], {"ours": fused, "other": fused})
    assert record.cases[1]["case"] == "tiny: floor, a multiple of 64 ids"
    ours, other = record.cases[2:]
    assert (ours["over_floor"], other["over_floor"], other["over_ours"]) == (1.5, 4.5, 3.0)


def test_shapes_and_chunks_are_left_as_they_were(tmp_path):
    record = Record("fast", tmp_path, torch.device("cpu"), seconds=60)
    chosen = triton_segment.BLOCK, triton_segment.NUM_WARPS
    tuned(record, "tiny", [tiny_problem()])
    assert chosen == (triton_segment.BLOCK, triton_segment.NUM_WARPS)
    assert len(record.cases) > 10
    assert record.failed == []


def test_gradients_are_held_against_float64():
    problem = tiny_problem()
    _loss, *truth = exact(problem)
    fused(problem)
    error = largest_error([problem.hidden.grad, problem.weight.grad], truth)
    assert 0 < error < 3e-2
    problem.weight.grad[3] += truth[1].abs().max()
    assert largest_error([problem.hidden.grad, problem.weight.grad], truth) > 0.9


def test_attention_is_counted_as_causal():
    """Against torch's own counter, which counts all pairs of an eager attention."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    config = steps.config_of("Qwen2.5-1.5B", tiny=True)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rows, tokens = 2, 160
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(rows, tokens, dtype=torch.long), use_cache=False)
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    pairs = counts.pop("aten.bmm")
    found = steps.forward_flops(model, rows, tokens, rows * tokens)
    assert found == pytest.approx(sum(counts.values()) + pairs / 2, rel=0.01)
