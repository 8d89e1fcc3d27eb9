"""What a state is made of comes back bit for bit, damage is named, and nothing is pickled."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from distillens_plugin.storage.manifest import MANIFEST, find_damage, write_manifest
from distillens_plugin.storage.random_states import random_states, restore_random_states
from distillens_plugin.storage.state_format import read_value, write_value

FORM = "test 1"


def same(one, other):
    """Equal in value and type, NaN and -0.0 included."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.contiguous().view(torch.uint8).equal(other.contiguous().view(torch.uint8))
            if one.dim()
            else one.dtype == other.dtype and repr(one) == repr(other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def test_values_come_back_with_their_types_and_bits(tmp_path):
    torch.manual_seed(0)
    value = {
        "numbers": [1, 2**70, -0.0, 0.1, math.inf, -math.inf, math.nan, 5e-324, True, None, "ä\n"],
        "tuples": (1, (2, [3, ()])),
        "counter": Counter({30: 1, 60: 2}),
        "empty": [{}, [], (), ""],
        0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 4).t()},
        "0": torch.tensor([math.nan, -0.0, math.inf]),
        "$tensor": "a text, and no mark",
        "types": [
            torch.arange(6).to(dtype).reshape(2, 3)
            for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8)
        ],
        "nothing": torch.zeros(0, 3),
        "flag": torch.tensor(True),
    }
    write_value(tmp_path, "value", value)
    assert same(value, read_value(tmp_path, "value"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["value.json", "value.safetensors"]
    write_value(tmp_path, "plain", [1, (2.5, None)])
    assert read_value(tmp_path, "plain") == [1, (2.5, None)]
    assert not (tmp_path / "plain.safetensors").exists()


def test_tied_and_overlapping_tensors(tmp_path):
    weight = torch.randn(4, 4)
    value = {"wte": weight, "head": weight, "row": weight[1], "turned": weight.t(), "flat": weight}
    value["flat"] = weight.view(16)
    write_value(tmp_path, "value", value)
    found = read_value(tmp_path, "value")
    assert same(value, found)
    plain = json.loads((tmp_path / "value.json").read_text(encoding="utf-8"))
    assert plain["head"] == {"$tensor": "wte"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": [object()]}, "a/0 is a builtins.object"),
        ({"dtype": torch.float32}, "dtype is a torch.dtype"),
        ({"seed": np.float64(1.0)}, "seed is a numpy.float64"),
        ({"t": torch.eye(2).to_sparse()}, "t is a Tensor of torch.sparse_coo"),
    ],
)
def test_what_has_no_form_is_named(tmp_path, value, named):
    with pytest.raises(TypeError, match=named):
        write_value(tmp_path, "value", value)


def test_the_state_of_every_kind_of_optimiser_and_schedule_can_be_kept(tmp_path):
    layer = torch.nn.Linear(2, 2)
    for name in ("AdamW", "SGD", "Adafactor", "RMSprop", "LBFGS", "Adagrad", "RAdam", "NAdam"):
        optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            optimizer.step(lambda: layer(torch.ones(1, 2)).sum())
        before = optimizer.state_dict()
        write_value(tmp_path, name, before)
        assert same(before, read_value(tmp_path, name)), name
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 4]),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9),
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
    ]
    schedules.append(torch.optim.lr_scheduler.SequentialLR(optimizer, schedules[:2], [3]))
    for schedule in schedules:
        before = schedule.state_dict()
        write_value(tmp_path, "schedule", before)
        assert same(before, read_value(tmp_path, "schedule")), type(schedule)
    before = torch.amp.GradScaler("cpu").state_dict()
    write_value(tmp_path, "scaler", before)
    assert same(before, read_value(tmp_path, "scaler"))


def test_random_numbers_go_on_where_they_were(tmp_path):
    def draw():
        numbers = np.random.rand(3).tolist()  # noqa: NPY002 (the generator that libraries use)
        return random.random(), numbers, torch.rand(3).tolist()

    write_value(tmp_path, "random", random_states())
    expected = draw()
    restore_random_states(read_value(tmp_path, "random"))
    assert draw() == expected


@pytest.fixture
def vouched(tmp_path):
    folder = tmp_path / "state"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(50)))
    (folder / "inner" / "b.json").write_text("{}", encoding="utf-8")
    (folder / "empty").write_bytes(b"")
    write_manifest(folder, FORM)
    return folder


def test_every_flipped_bit_cut_or_missing_file_is_found_and_named(vouched):
    assert find_damage(vouched, FORM) is None
    num_flips = 0
    for path in [path for path in vouched.rglob("*") if path.is_file()]:
        name = str(path.relative_to(vouched))
        content = path.read_bytes()
        for position in range(len(content)):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            path.write_bytes(bytes(flipped))
            damage = find_damage(vouched, FORM)
            assert damage is not None, (name, position)
            assert damage.startswith(name)
            num_flips += 1
        for length in {0, len(content) // 2, len(content) - 1} - {len(content), -1}:
            path.write_bytes(content[:length])
            assert find_damage(vouched, FORM) is not None, (name, length)
        path.write_bytes(content + b"\n")
        assert find_damage(vouched, FORM) is not None, name
        path.unlink()
        assert find_damage(vouched, FORM) == f"{name} is missing"
        path.write_bytes(content)
    assert num_flips > 300
    (vouched / "more").write_bytes(b"")
    assert find_damage(vouched, FORM) == "more does not belong there"


def test_another_form_and_strange_manifests(vouched):
    assert find_damage(vouched, "test 2") == (
        f"{MANIFEST} has the form 'test 1', expected 'test 2'"
    )
    for text in ("", "[]", "null", "3", '{"form": "test 1"}', "[" * 5000, '{"files": 3}'):
        (vouched / MANIFEST).write_text(text, encoding="utf-8")
        assert find_damage(vouched, FORM) == f"{MANIFEST} is damaged", text
