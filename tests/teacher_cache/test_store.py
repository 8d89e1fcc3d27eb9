"""What the teacher cache stores: rows to bytes and back, shards, and a full disk."""

import pytest
import torch

from distillens_plugin.teacher_cache.codec import bytes_per_row, decode, encode
from distillens_plugin.teacher_cache.shards import write_shard
from distillens_plugin.teacher_cache.store import Store
from eval_harness.errors import RunFailure


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bfloat16_rows_come_back_rounded_to_bfloat16():
    rows = torch.randn(5, 64) * 30
    back = decode("x", encode("x", rows, "bfloat16"), torch.float32)
    assert torch.equal(back, rows.bfloat16().float())


def test_int8_rows_come_back_within_half_a_level():
    rows = torch.randn(50, 64) * torch.logspace(-3, 3, 50).unsqueeze(1)
    back = decode("x", encode("x", rows, "int8"), torch.float32)
    level = rows.abs().amax(dim=1, keepdim=True) / 127
    assert ((back - rows).abs() <= level * 0.5001).all()
    assert (back != rows).any()


def test_int8_keeps_rows_of_zeros_and_shows_rows_that_are_not_finite():
    rows = torch.tensor([[0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")], [1.0, -2.0]])
    back = decode("x", encode("x", rows, "int8"), torch.float32)
    assert torch.equal(back[0], rows[0])
    assert back[1].isnan().any()
    assert back[2].isnan().any()
    assert back[3].tolist() == pytest.approx([1.0, -2.0], abs=0.01)


def test_int8_keeps_a_rows_few_huge_numbers_apart():
    rows = torch.randn(50, 64)
    rows[:, 7] *= 300
    rows[:, 21] = -500.0
    back = decode("x", encode("x", rows, "int8"), torch.float32)
    # Scaled to 500, a level would be 4, and nothing of the other channels would be left.
    torch.testing.assert_close(back[:, :7], rows[:, :7], atol=0.02, rtol=2**-8)
    torch.testing.assert_close(back[:, 21], rows[:, 21], atol=0, rtol=2**-8)


def test_int8_of_older_versions_is_read_beside_that_of_this_one(tmp_path):
    rows = torch.randn(4, 16)
    scale = rows.abs().amax(dim=1) / 127
    old = {"final": (rows / scale.unsqueeze(1)).round().to(torch.int8), "final.scale": scale}
    write_shard(tmp_path / "shard-0-00000.safetensors", old, [("a", 4)], {"final": "float32"})
    store = Store(tmp_path, dtype="int8", writer="1")
    store.refresh()
    store.add(["b"], [4], {"final": rows})
    for flush in (False, True):
        if flush:
            store.flush()
        found = store.read(["b", "a"], torch.device("cpu"))["final"]
        torch.testing.assert_close(found, rows.repeat(2, 1), atol=0.02, rtol=0.01)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_size_of_a_row_is_known_beforehand(dtype):
    stored = encode("x", torch.randn(7, 48), dtype)
    assert sum(tensor.nbytes for tensor in stored.values()) == 7 * bytes_per_row(48, dtype)


def test_rows_come_back_in_the_order_asked_for_from_memory_and_from_shards(tmp_path):
    states = torch.arange(12.0).reshape(6, 2)
    store = Store(tmp_path, dtype="bfloat16")
    store.add(["a", "b", "c"], [2, 0, 4], {"final": states})

    def read(ids):
        return store.read(ids, torch.device("cpu"))["final"]

    for flush in (False, True):
        if flush:
            store.flush()
        assert torch.equal(read(["c", "a"]), states[[2, 3, 4, 5, 0, 1]])
        assert read(["b"]).shape == (0, 2)
    store.add(["c", "d", "d"], [4, 1, 1], {"final": torch.full((6, 2), 9.0)})
    assert torch.equal(read(["d", "c"]), torch.cat([torch.full((1, 2), 9.0), states[2:]]))


def test_a_store_sees_the_shards_of_another_process_after_refresh(tmp_path):
    mine, other = (Store(tmp_path, dtype="int8", writer=writer) for writer in ("0", "1"))
    other.add(["a"], [3], {"final": torch.randn(3, 8)})
    other.flush()
    assert mine.missing(["a"]) == ["a"]
    mine.refresh()
    assert mine.missing(["a"]) == []
    device = torch.device("cpu")
    assert torch.equal(mine.read(["a"], device)["final"], other.read(["a"], device)["final"])


def test_a_shard_whose_index_cannot_be_written_is_not_left_behind(tmp_path, monkeypatch):
    def full(path, text, **settings):
        raise OSError(28, "No space left on device")

    store = Store(tmp_path, dtype="bfloat16")
    store.add(["a"], [1], {"final": torch.ones(1, 2)})
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(RunFailure, match="No space left on device"):
        store.flush()
    assert contents(tmp_path) == {}
    monkeypatch.undo()
    store.flush()
    assert sorted(contents(tmp_path)) == ["shard-0-00000.json", "shard-0-00000.safetensors"]


def test_a_full_disk_is_a_failure_that_keeps_what_was_written(tmp_path, monkeypatch):
    store = Store(tmp_path, dtype="bfloat16")
    store.add(["a"], [1], {"final": torch.ones(1, 2)})
    store.flush()
    kept = contents(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distillens_plugin.teacher_cache.shards.save_file", full)
    store.add(["b"], [1], {"final": torch.ones(1, 2)})
    with pytest.raises(RunFailure, match="No space left on device"):
        store.flush()
    assert contents(tmp_path) == kept
