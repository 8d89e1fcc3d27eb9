"""What travels to a machine without a network: cut into pieces, put together, checked."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "benchmarks" / "gpu"))

from pieces import PIECE, cut, unpack
from teacher_file import by_halves, dequantised, name_in_transformers


@pytest.fixture
def packed(tmp_path):
    content = tmp_path / "content"
    (content / "teacher").mkdir(parents=True)
    (content / "LICENCES.txt").write_text("text\n", encoding="utf-8")
    noise = torch.randint(256, (5000,), dtype=torch.uint8, generator=torch.manual_seed(1))
    (content / "teacher" / "weights").write_bytes(noise.numpy().tobytes())
    return content, tmp_path / ".worth", cut(content, tmp_path / ".worth", 2000)


def test_pieces_come_together_again(packed):
    content, folder, pieces = packed
    assert [piece.name for piece in pieces] == [".worth-1", ".worth-2", ".worth-3"]
    assert all((piece / PIECE).stat().st_size <= 2000 for piece in pieces)
    for _ in range(2):  # a second join replaces the first, but no run
        unpack(folder)
        (folder / "study").mkdir(exist_ok=True)
        (folder / "teacher" / "old").write_text("")
        for name in ("LICENCES.txt", "teacher/weights"):
            assert (folder / name).read_bytes() == (content / name).read_bytes()
    (folder / "study" / "run").write_text("done")
    unpack(folder)
    assert (folder / "study" / "run").read_text() == "done"
    assert not (folder / "teacher" / "old").exists()
    assert (folder / ".gitignore").read_text(encoding="ascii") == "*\n"


def test_a_second_pack_leaves_nothing_of_the_first(packed):
    content, folder, pieces = packed
    assert len(cut(content, folder, 100_000)) == 1
    assert not pieces[1].exists()


def test_a_missing_piece_is_named(packed):
    _, folder, pieces = packed
    shutil.rmtree(pieces[1])
    with pytest.raises(SystemExit, match=r"\.worth-2: missing, piece 2 of 3"):
        unpack(folder)
    assert not folder.exists()


def test_a_damaged_piece_is_named(packed):
    _, folder, pieces = packed
    data = bytearray((pieces[2] / PIECE).read_bytes())
    data[7] ^= 1
    (pieces[2] / PIECE).write_bytes(data)
    with pytest.raises(SystemExit, match=r"\.worth-3/piece: damaged"):
        unpack(folder)


def test_pieces_of_two_packs_are_not_mixed(packed):
    content, folder, pieces = packed
    shutil.copytree(pieces[0], folder.parent / "old")
    (content / "LICENCES.txt").write_text("another\n", encoding="utf-8")
    cut(content, folder, 2000)
    shutil.rmtree(pieces[0])
    shutil.copytree(folder.parent / "old", pieces[0])
    with pytest.raises(SystemExit, match="different packs"):
        unpack(folder)


def test_a_folder_of_somebody_else_is_left_alone(packed):
    _, folder, _ = packed
    folder.mkdir()
    with pytest.raises(SystemExit, match="was not made by `join`"):
        unpack(folder)


def halves(*values):
    return torch.tensor(values, dtype=torch.float16).view(torch.uint8)


def test_blocks_of_four_bits_have_a_scale_and_a_minimum():
    quantised = torch.arange(32) % 16
    packed = (quantised[:16] | (quantised[16:] << 4)).to(torch.uint8)
    stored = torch.cat([halves(0.5, -2.0), packed]).unsqueeze(0)
    expected = quantised.float() * 0.5 - 2.0
    assert torch.equal(dequantised(stored, "Q4_1"), expected.unsqueeze(0))


def test_blocks_of_eight_bits_have_a_scale():
    quantised = torch.arange(-16, 16, dtype=torch.int8)
    stored = torch.cat([halves(0.25), quantised.view(torch.uint8)]).unsqueeze(0)
    assert torch.equal(dequantised(stored, "Q8_0"), quantised.float().unsqueeze(0) * 0.25)


def test_a_heads_rows_are_put_back_in_halves():
    # Two heads of four rows: neighbours 0 1 and 2 3 become the pairs (0, 2) and (1, 3).
    weight = torch.arange(8.0).unsqueeze(1)
    assert by_halves(weight, 2).squeeze(1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_names_are_those_of_transformers():
    assert name_in_transformers("token_embd.weight") == "model.embed_tokens.weight"
    assert name_in_transformers("blk.7.attn_q.weight") == "model.layers.7.self_attn.q_proj.weight"
