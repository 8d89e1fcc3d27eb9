"""The walk's memory as counted without torch: the walk's own chunks, and what an H100 measured."""

from pathlib import Path

import pytest
import torch

from distillens_plugin.costs import walk as counted
from distillens_plugin.costs.families import known_architecture
from distillens_plugin.costs.precision import precision
from distillens_plugin.costs.walk import WalkRows, walk_bytes, walk_flops
from distillens_plugin.fused import plan

GPU_FIGURES = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
# There, the table of the lens: MiB beyond the inputs, by vocabulary, widths and rows.
MEASURED = [
    (50257, 768, 1600, 1024, 576),
    (50257, 768, 1600, 4096, 1182),
    (50257, 768, 1600, 16384, 1235),
    (50257, 768, 1600, 32768, 1284),
    (151936, 1536, 2048, 1024, 1492),
    (151936, 1536, 2048, 4096, 1721),
    (151936, 1536, 2048, 16384, 1955),
    (151936, 1536, 2048, 32768, 2103),
]


def model(width, vocab):
    fields = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return known_architecture(
        {"model_type": "llama", "hidden_size": width, "vocab_size": vocab, **fields}
    )


@pytest.mark.parametrize("vocab", [2, 2048, 32000, 50257, 151936, 262144])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunks_are_the_walks_own(vocab, device):
    where = torch.device(device)
    for dtype in (torch.float32, torch.bfloat16):
        rows = plan.default_chunk_rows(vocab, where, dtype)
        assert counted.chunk_rows(vocab, device, dtype.itemsize) == rows
    assert counted.aligned(vocab, device) == plan.aligned(vocab, where)


@pytest.mark.parametrize(("vocab", "width", "teacher_width", "rows", "mebibytes"), MEASURED)
def test_memory_is_what_a_gpu_measured(vocab, width, teacher_width, rows, mebibytes):
    at = precision("bfloat16", "no", "cuda")
    found = walk_bytes(
        WalkRows(1, 1, labels=False),
        rows,
        (model(width, vocab), at),
        (model(teacher_width, vocab), at),
        trains_head=True,
        given_chunk_rows=None,
    )
    inputs = 2 * rows * (width + teacher_width)
    beyond = (found.kept + found.chunk - inputs) / 2**20
    assert beyond == pytest.approx(mebibytes, rel=0.03)
    doc = GPU_FIGURES.read_text(encoding="utf-8")
    assert f"({mebibytes:,})" in doc


def test_a_frozen_head_has_no_gradient_and_a_given_chunk_is_kept_to():
    at, student, teacher = precision("float32", "no", "cuda"), model(64, 6400), model(128, 6400)
    rows = WalkRows(3, 3, labels=False)
    sides = ((student, at), (teacher, at))
    whole = walk_bytes(rows, 1000, *sides, trains_head=True, given_chunk_rows=100)
    frozen = walk_bytes(rows, 1000, *sides, trains_head=False, given_chunk_rows=100)
    assert whole.kept - frozen.kept == 4 * 6400 * 64
    assert whole.chunk == frozen.chunk == 2 * 100 * 6400 * 4
    assert walk_flops(rows, 10, student, teacher, trains_head=True) == 2 * 3 * 10 * 6400 * (
        3 * 64 + 128
    )


def test_rows_that_the_teachers_head_reads_are_a_walk_of_their_own():
    at, student, teacher = precision("float32", "no", "cuda"), model(64, 6400), model(128, 12800)
    sides = ((student, at), (teacher, at))
    given = {"trains_head": True, "given_chunk_rows": 100}
    own = walk_bytes(WalkRows(1, 1, labels=False), 1000, *sides, **given)
    both = walk_bytes(WalkRows(1, 3, labels=False, by_teacher=2), 1000, *sides, **given)
    # Float32 rows and their gradients, the teacher's rows, and no gradient of the head.
    assert both.kept - own.kept == 2 * 1000 * 128 * (4 + 4 + 4)
    assert both.chunk == 2 * 100 * 12800 * 4 > own.chunk
    alone = walk_bytes(WalkRows(0, 2, labels=False, by_teacher=2), 1000, *sides, **given)
    assert alone.kept == both.kept - own.kept
    product = 2 * 128 * 12800 * 10
    rows = WalkRows(0, 2, labels=False, by_teacher=2, entropies=True)
    assert walk_flops(rows, 10, student, teacher, trains_head=True) == (2 + 4 + 1) * product


def test_a_share_of_the_positions_is_that_share():
    at, student, teacher = precision("float32", "no", "cuda"), model(64, 6400), model(128, 6400)
    sides = ((student, at), (teacher, at))
    given = {"trains_head": False, "given_chunk_rows": 100}
    few = walk_bytes(WalkRows(0.5, 0.5, labels=False), 1000, *sides, **given)
    whole = walk_bytes(WalkRows(1, 1, labels=False), 500, *sides, **given)
    assert few == whole


def test_without_groups_there_is_no_walk():
    at = precision("float32", "no", "cuda")
    none = WalkRows(0, 0, labels=False)
    found = walk_bytes(none, 10, (model(8, 16), at), None, trains_head=True, given_chunk_rows=None)
    assert (found.kept, found.chunk) == (0, 0)
