"""Models as they come: in DDP, with LoRA, in bfloat16, with padded vocabularies, tuned lenses."""

import copy

import numpy as np
import pytest
import torch
from lens_reference import with_lora
from random_batches import random_batches
from small_models import small_model
from torch.nn.parallel import DistributedDataParallel

from distillens_plugin.lens.translators import Translators, save_translators
from distillens_plugin.lens_maps.batches import lens_batches, num_positions
from distillens_plugin.lens_maps.confidence import compare_confidence
from distillens_plugin.lens_maps.matrix import layer_matrix
from distillens_plugin.lens_maps.statistics import layer_statistics, read_model
from distillens_plugin.lens_maps.tokens import token_table
from eval_harness.errors import DistillensError

DATA = random_batches(60)
NUMBERS = ("entropy", "divergence_to_final", "true_rank", "true_probability", "logits_std")


def assert_same(one, other, **tolerance):
    for name in (*NUMBERS, "stream_rms"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), **tolerance), name


def test_a_model_in_ddp_is_the_model(process_group):
    model, teacher = small_model("gpt2"), small_model("llama")
    wrapped = DistributedDataParallel(model)
    wrapped.train()
    found = read_model(wrapped, DATA)
    assert wrapped.training
    assert model.transformer.h[0].training
    alone = read_model(model.eval(), DATA)
    assert_same(found.statistics, alone.statistics, abs=0)
    assert torch.equal(found.entropies, alone.entropies)
    matrix = layer_matrix(wrapped, teacher, DATA).values
    assert np.array_equal(matrix, layer_matrix(model, teacher, DATA).values)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_adapter_is_read_as_if_it_were_merged():
    model = small_model("llama").double()
    plain = layer_statistics(model, DATA, norm="final")
    adapted = with_lora(model, target_modules=["q_proj", "down_proj", "lm_head"]).double()
    found = layer_statistics(adapted, DATA, norm="final")
    merged = layer_statistics(copy.deepcopy(adapted).merge_and_unload(), DATA, norm="final")
    assert_same(found, merged, rel=1e-9, abs=1e-12)
    assert np.abs(found.entropy - plain.entropy).max() > 1e-3


def test_weights_in_bfloat16_are_read_in_float32():
    model = small_model("qwen2", dtype=torch.bfloat16)
    wide = copy.deepcopy(model).float()
    found, exact = (layer_statistics(each, DATA, norm="final") for each in (model, wide))
    assert_same(found, exact, rel=0.1, abs=0.1)
    # Only the products are rounded: an equal distribution is equal to the last digit.
    assert found.divergence_to_final[-1] == 0
    matrix = layer_matrix(model, wide, DATA, norm="final")
    assert np.abs(matrix.values - layer_matrix(wide, wide, DATA, norm="final").values).max() < 5e-3


def test_padding_of_a_vocabulary_is_cut_and_a_lacking_token_refused():
    student = small_model("llama", vocab=60)
    teacher, padded = (small_model("llama", vocab=60, seed=1) for _ in range(2))
    padded.resize_token_embeddings(64, mean_resizing=False)
    found = layer_matrix(student, padded, DATA).values
    assert found == pytest.approx(layer_matrix(student, teacher, DATA).values, abs=1e-6)
    small = small_model("llama", vocab=40)
    for call in (
        lambda: layer_matrix(student, small, DATA),
        lambda: layer_statistics(small, DATA),
        lambda: read_model(small, DATA),
        lambda: token_table(small, None, [3, 59, 4]),
    ):
        with pytest.raises(DistillensError, match=r"hold token 59, but its vocabulary has 40; "):
            call()


def test_a_tuned_lens_is_its_translators_and_then_the_readout(tmp_path):
    model = small_model("llama").double()
    torch.manual_seed(0)
    maps = {k: (torch.randn(32, 32) * 0.1, torch.randn(32) * 0.1) for k in range(3)}
    file = tmp_path / "translators.safetensors"
    save_translators(file, maps, num_layers=3, notes={})
    translators = Translators(file, [0, 1, 2, 3], num_layers=3, width=32, where="here")
    tuned = layer_statistics(model, DATA, norm="final", translators=translators)
    plain = layer_statistics(model, DATA, norm="final")
    assert tuned.norm == "tuned"
    assert tuned.entropy[-1] == pytest.approx(plain.entropy[-1])
    assert np.array_equal(tuned.stream_rms, plain.stream_rms)

    ids = [3, 20, 11, 40]
    table = token_table(model, Ids(), ids, norm="final", translators=translators, num_top=1)
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1]
        weight, bias = (value.double() for value in maps[1])
        read = model.lm_head(model.model.norm(hidden + hidden @ weight.T + bias))[0, :-1]
    assert [row[0] for row in table.top_tokens[1]] == [f"{i}" for i in read.argmax(-1).tolist()]
    largest = read.softmax(-1).amax(-1)
    # The translators are applied in float32.
    assert table.top_probabilities[1, :, 0] == pytest.approx(largest.numpy(), rel=1e-4)
    with pytest.raises(DistillensError, match="read them with norm = 'final'"):
        layer_statistics(model, DATA, translators=translators)


class Ids:
    """A tokenizer whose tokens are their numbers."""

    def __len__(self):
        return 64

    def decode(self, ids):
        return str(ids[0])


def test_batches_end_with_the_rows_or_the_positions():
    rows = [{"input_ids": [1, 5, 6, 7], "labels": [-100, -100, 6, 7]}] * 5
    assert num_positions(lens_batches(rows, 99, "cpu")) == 10
    assert num_positions(lens_batches(rows, 3, "cpu", batch_rows=2)) == 6
    some = lens_batches(rows, 99, "cpu", batch_rows=2, max_positions=5)
    assert [supervised.positions.numel() for _, supervised in some] == [4, 1]
    assert some[1][1].labels.tolist() == [6]
    # The fourth row has none of the positions.
    assert [len(batch["input_ids"]) for batch, _ in some] == [2, 1]
    assert num_positions(lens_batches(rows, 99, "cpu", batch_rows=2, max_positions=4)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "last"}, "norm = 'last', expected identity or final"),
        ({"divergence": "jds"}, "divergence = 'jds', expected one of .*did you mean 'jsd'"),
        ({"student_layers": [4]}, "layer 4: the model has layers 0 to 3"),
        ({"teacher_layers": []}, "no layers were given"),
        ({"temperature": 0}, "temperature = 0, expected a number above 0"),
    ],
)
def test_what_a_matrix_cannot_be_of_is_refused(arguments, message):
    model = small_model("llama")
    with pytest.raises(DistillensError, match=message):
        layer_matrix(model, model, DATA, **arguments)


def test_pairs_and_tops_that_cannot_be_are_refused():
    model = small_model("llama")
    with pytest.raises(DistillensError, match=r"pair \(1, -1\): .*layers 0 to 3 and 0 to 3"):
        compare_confidence(*[read_model(model, DATA)] * 2, [(1, 1), (1, -1)])
    with pytest.raises(DistillensError, match="num_top = 0, expected at least 1"):
        token_table(model, Ids(), [3, 4, 5], num_top=0)
