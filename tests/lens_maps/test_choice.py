"""choose_layers: layer pairs by measurement, for models in anybody's training loop."""

import pytest
import torch
from pair import batch, pair
from small_models import small_model

from distillens_plugin import AttachedLens, choose_layers
from distillens_plugin.data.supervision import Supervised, find_supervised
from distillens_plugin.integrations.transformers.arguments import DistillLensArguments
from distillens_plugin.lens.translators import save_translators
from distillens_plugin.lens_maps.choice import _with_positions, least_divergence
from eval_harness.errors import DistillensError


def rows(num_batches=2):
    """Batches as a data loader yields them."""
    pairs = (batch(seed=seed) for seed in range(num_batches))
    return [{"input_ids": ids, "labels": labels} for ids, labels in pairs]


@pytest.fixture(scope="module")
def cut():
    """A student of the teacher's blocks 0, 2 and 5; of the others, 1 and 3 add nothing."""
    teacher = small_model("llama", layers=6, width=32, seed=2)
    for block in (1, 3):
        layer = teacher.model.layers[block]
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    student = small_model("llama", layers=3, width=32, seed=2)
    student.model.embed_tokens.load_state_dict(teacher.model.embed_tokens.state_dict())
    student.lm_head.load_state_dict(teacher.lm_head.state_dict())
    for own, theirs in enumerate((0, 2, 5)):
        student.model.layers[own].load_state_dict(teacher.model.layers[theirs].state_dict())
    return student, teacher


def test_a_student_that_is_cut_from_the_teacher_finds_its_layers(cut):
    found = choose_layers(*cut, rows(), 2)
    assert found["student"] == [1, 2]
    # Layers 1 and 2 of the teacher read alike, and so do 3 and 4.
    assert found["teacher"][0] in (1, 2)
    assert found["teacher"][1] in (3, 4)
    with AttachedLens(*cut, found) as lens:
        pairs = lens.terms["lens"].term.pairs(3, 6)
    assert pairs == list(zip(found["student"], found["teacher"], strict=True))


def test_only_the_layers_between_and_those_with_a_translator_are_measured(tmp_path):
    student, teacher = pair(dtype=torch.float32)
    maps = {k: (torch.zeros(48, 48), torch.zeros(48)) for k in (0, 3)}
    file = tmp_path / "translators.safetensors"
    save_translators(file, maps, num_layers=5, notes={})
    ids, labels = batch()
    batches = [
        (
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            Supervised(*find_supervised(labels)),
        )
    ]

    def chosen(num_pairs, translators):
        return least_divergence(
            student,
            teacher,
            batches,
            num_pairs,
            norm="final",
            divergence="jsd",
            temperature=1.0,
            teacher_translators=translators,
            where="here",
        )

    plain, tuned = chosen(1, None), chosen(1, str(file))
    assert list(plain.matrix.student_layers) == [1, 2]
    assert list(plain.matrix.teacher_layers) == [1, 2, 3, 4]
    assert list(tuned.matrix.teacher_layers) == [3]
    # Translators of zeros leave the layers as they are.
    assert tuned.matrix.values == pytest.approx(plain.matrix.values[:, 2:3], rel=1e-5)
    assert tuned.layers["teacher"] == [3]
    assert tuned.by_depth[0] == {"student": [2], "teacher": [3]}
    with pytest.raises(DistillensError, match="for 1 of the layers 1 to 4, fewer than the 2 pairs"):
        chosen(2, str(file))


def test_packed_rows_are_measured_as_they_are_alone(cut):
    def matrix(batches):
        given = [_with_positions(each, torch.device("cpu")) for each in batches]
        return least_divergence(
            *cut,
            given,
            1,
            norm="final",
            divergence="jsd",
            temperature=1.0,
            teacher_translators=None,
            where="here",
        ).matrix

    (alone,) = rows(1)
    labels = alone["labels"].clone()
    labels[:, 0] = -100  # what would be predicted from the row before
    ids = alone["input_ids"]
    positions = torch.arange(ids.shape[1]).repeat(ids.shape[0])
    packed = {
        "input_ids": ids.reshape(1, -1),
        "position_ids": positions.unsqueeze(0),
        "labels": labels.reshape(1, -1),
    }
    assert matrix([packed]).values == pytest.approx(matrix([alone]).values, rel=1e-4)
    without = {key: value for key, value in packed.items() if key != "position_ids"}
    assert matrix([without]).values != pytest.approx(matrix([alone]).values, rel=1e-2)


def test_what_cannot_be_measured_is_refused(cut):
    nothing = [{**each, "labels": torch.full_like(each["labels"], -100)} for each in rows()]
    with pytest.raises(DistillensError, match="no supervised position"):
        choose_layers(*cut, nothing, 1)
    with pytest.raises(DistillensError, match="no labels"):
        choose_layers(*cut, [{"input_ids": rows()[0]["input_ids"]}], 1)
    with pytest.raises(DistillensError, match="the student has 3 blocks: expected at most 2 pairs"):
        choose_layers(*cut, rows(), 3)


def test_faces_without_rows_name_the_function(cut):
    layers = {"auto": 2, "by": "divergence"}
    with pytest.raises(DistillensError, match=r"choose_layers\(student, teacher, batches, 2\)"):
        AttachedLens(*cut, layers)
    with pytest.raises(DistillensError, match=r"choose_layers\(student, teacher, batches, 2\)"):
        DistillLensArguments(layers=layers)
