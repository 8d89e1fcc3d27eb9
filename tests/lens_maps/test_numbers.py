"""What the lens reads, against whole logits in float64, one layer and one position at a time."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_batches import random_batches as batches
from small_models import small_model

from distillens_plugin.data.supervision import Supervised
from distillens_plugin.divergences import make_divergence
from distillens_plugin.lens.discovery import find_anatomy
from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.lens.probe import plain_model
from distillens_plugin.lens_maps import rows as rows_module
from distillens_plugin.lens_maps.confidence import compare_confidence
from distillens_plugin.lens_maps.matrix import layer_matrix
from distillens_plugin.lens_maps.pairs import monotone_pairs
from distillens_plugin.lens_maps.statistics import layer_statistics, read_model
from distillens_plugin.lens_maps.tokens import token_table
from eval_harness.errors import DistillensError

PAIRS = [
    ("llama", {}, "llama", {"layers": 3}),
    ("gpt2", {"tied": False}, "llama", {}),
    ("gemma2", {}, "qwen2", {}),
    ("opt_projected", {}, "gpt2", {}),
]


def naive_logits(model, layer, norm, data):
    """[N, V] float64: all logits of all positions of all batches."""
    anatomy = find_anatomy(model)
    found = []
    for batch, supervised in data:
        seen: dict[str, torch.Tensor] = {}

        def keep(module, args, *more, seen=seen):
            value = more[-1] if layer else (*args, *more[-1].values())[0]
            seen["h"] = value if torch.is_tensor(value) else value[0]

        blocks = model.get_submodule(anatomy.blocks)
        if layer == 0:
            handle = blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
        else:
            handle = blocks[layer - 1].register_forward_hook(keep)
        with torch.no_grad():
            logits = model(**batch).logits
        handle.remove()
        if norm == "own":
            rows = logits
        else:
            rows = seen["h"]
            for path in anatomy.readout:
                if norm == "identity" and path in anatomy.norms:
                    continue
                with torch.no_grad():
                    rows = plain_model(model).get_submodule(path)(rows)
            with torch.no_grad():
                rows = plain_model(model).get_submodule(anatomy.head)(rows)
            rows = rows * anatomy.scale
            if anatomy.softcap is not None:
                rows = torch.tanh(rows / anatomy.softcap) * anatomy.softcap
        found.append(rows.flatten(0, 1)[supervised.positions])
    return torch.cat(found).double()


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[2]}")
def pair(request):
    student, more, teacher, further = request.param
    return small_model(student, **more).double(), small_model(teacher, **further).double()


@pytest.mark.parametrize("norm", ["identity", "final"])
def test_the_matrix_is_the_double_loop(pair, norm, monkeypatch):
    # Many chunks, of which the last is not whole.
    monkeypatch.setattr(rows_module, "_CHUNK_NUMBERS", 3000)
    student, teacher = pair
    data = batches(60)
    found = layer_matrix(student, teacher, data, norm=norm)
    depths = [lens_of(model).num_layers for model in pair]
    jsd = make_divergence("jsd", beta=0.5)
    whole = [
        [naive_logits(model, layer, norm, data) for layer in range(depth + 1)]
        for model, depth in zip(pair, depths, strict=True)
    ]
    for (a, ours), (b, theirs) in itertools.product(*map(enumerate, whole)):
        columns = min(ours.shape[1], theirs.shape[1])
        expected = jsd(theirs[:, :columns], ours[:, :columns]).mean().item()
        assert found.values[a, b] == pytest.approx(expected, abs=1e-12), (a, b)
    assert found.num_positions == len(naive_logits(student, 0, norm, data))


@pytest.mark.parametrize("name", ["fkl", "rkl", "tvd"])
def test_other_divergences_and_a_temperature(name):
    student, teacher = small_model("llama").double(), small_model("gpt2").double()
    data = batches(60)
    layers = {"student_layers": [1, 2], "teacher_layers": [0, 2]}
    found = layer_matrix(student, teacher, data, divergence=name, temperature=2.0, **layers)
    divergence = make_divergence(name)
    for i, a in enumerate(found.student_layers):
        for j, b in enumerate(found.teacher_layers):
            ours = naive_logits(student, a, "identity", data) / 2
            theirs = naive_logits(teacher, b, "identity", data) / 2
            columns = min(ours.shape[1], theirs.shape[1])
            expected = divergence(theirs[:, :columns], ours[:, :columns]).mean().item()
            assert found.values[i, j] == pytest.approx(expected, abs=1e-12)


def test_float32_is_near_and_symmetric_where_both_models_are_one():
    model = small_model("llama")
    exact = layer_matrix(model.double(), model, batches(60)).values
    near = layer_matrix(model.float(), model, batches(60)).values
    assert np.abs(near - exact).max() < 3e-6
    assert np.abs(np.diag(exact)).max() < 1e-12
    assert np.allclose(exact, exact.T, atol=1e-12)


@pytest.mark.parametrize("norm", ["identity", "final"])
def test_statistics_position_by_position(pair, norm, monkeypatch):
    monkeypatch.setattr(rows_module, "_CHUNK_NUMBERS", 2000)
    model, data = pair[0], batches(60)
    model.train()
    found = layer_statistics(model, data, norm=norm)
    assert model.training
    model.eval()
    labels = torch.cat([supervised.labels for _, supervised in data])
    own = naive_logits(model, 0, "own", data).log_softmax(-1)
    for layer in found.layers:
        logits = naive_logits(model, layer, norm, data)
        read = logits.log_softmax(-1)
        ranks, entropies, kls, probabilities = [], [], [], []
        for row, label, final in zip(read, labels, own, strict=True):
            ranks.append(1 + int((row > row[label]).sum()))
            entropies.append(-(row.exp() * row).sum().item())
            kls.append((final.exp() * (final - row)).sum().item())
            probabilities.append(row[label].exp().item())
        assert found.entropy[layer] == pytest.approx(np.mean(entropies), abs=1e-10)
        assert found.divergence_to_final[layer] == pytest.approx(np.mean(kls), abs=1e-10)
        assert found.true_probability[layer] == pytest.approx(np.mean(probabilities), abs=1e-12)
        assert found.true_rank[layer] == np.median(ranks)
        assert found.top1[layer] == np.mean(np.array(ranks) == 1)
        assert found.logits_std[layer] == pytest.approx(logits.std(-1).mean().item())
    if norm == "final" and find_anatomy(model).readout:
        assert found.divergence_to_final[-1] == pytest.approx(0, abs=1e-9)


def test_confidence_is_compared_position_by_position(pair):
    student, teacher = pair
    data, pairs = batches(60), [(1, 1), (2, 2), (0, 2)]
    ours, theirs = (read_model(model, data, norm="final") for model in pair)
    assert ours.entropies.mean(1).numpy() == pytest.approx(ours.statistics.entropy, abs=1e-12)
    found = compare_confidence(ours, theirs, pairs)
    assert found.num_positions == ours.statistics.num_positions
    for index, (a, b) in enumerate(pairs):
        entropies = []
        for model, layer in ((student, a), (teacher, b)):
            read = naive_logits(model, layer, "final", data).log_softmax(-1)
            entropies.append(-(read.exp() * read).sum(-1))
        more = (entropies[0] - entropies[1]).numpy()
        surer, less = more < -0.01, more > 0.01
        assert found.surer_share[index] == surer.mean()
        assert found.less_sure_share[index] == less.mean()
        expected = -more[surer].mean() if surer.any() else 0
        assert found.surer_by[index] == pytest.approx(expected, abs=1e-9)
        expected = more[less].mean() if less.any() else 0
        assert found.less_sure_by[index] == pytest.approx(expected, abs=1e-9)


def test_a_table_of_tokens(monkeypatch):
    class Words:
        def __len__(self):
            return 50

        def decode(self, ids):
            return "" if ids[0] == 7 else f"w{ids[0]}"

    monkeypatch.setattr(rows_module, "_CHUNK_NUMBERS", 600)
    model = small_model("llama", vocab=64).double()
    ids = [3, 7, 20, 11, 60, 9]
    table = token_table(model, Words(), ids, positions=[1, 3, 4], num_top=3, norm="final")
    assert table.tokens == ["<7>", "w11", "<60>"]
    assert table.next_tokens == ["w20", "<60>", "w9"]
    row = torch.tensor([ids])
    at = torch.tensor([1, 3, 4])
    data = [
        ({"input_ids": row, "attention_mask": torch.ones_like(row)}, Supervised(at, row[0, at + 1]))
    ]
    for layer in table.layers:
        read = naive_logits(model, layer, "final", data).softmax(-1)
        for place, label in enumerate((20, 60, 9)):
            top = read[place].topk(3)
            expected = [f"w{i}" if i < 50 and i != 7 else f"<{i}>" for i in top.indices.tolist()]
            assert table.top_tokens[layer][place] == expected
            assert np.allclose(table.top_probabilities[layer, place], top.values)
            rank = 1 + int((read[place] > read[place, label]).sum())
            assert table.true_rank[layer, place] == rank


@pytest.mark.parametrize("positions", [[], [5], [-1]])
def test_positions_that_no_token_follows_are_refused(positions):
    with pytest.raises(DistillensError, match="expected some of 0 to 4"):
        token_table(small_model("llama"), None, [1, 2, 3, 4, 5, 6], positions=positions)


@given(
    st.integers(1, 6).flatmap(
        lambda a: st.integers(1, 6).flatmap(
            lambda b: st.tuples(
                st.lists(
                    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=b, max_size=b),
                    min_size=a,
                    max_size=a,
                ),
                st.integers(1, min(a, b)),
            )
        )
    )
)
@settings(max_examples=150, deadline=None)
def test_the_pairs_are_the_best_of_all(case):
    values, num_pairs = case
    matrix = np.array(values)
    rows, columns = matrix.shape

    def cost(pairs):
        off = sum(abs((i + 1) / (rows + 1) - (j + 1) / (columns + 1)) for i, j in pairs)
        return sum(matrix[i, j] for i, j in pairs), round(off, 9)

    possible = [
        list(zip(a, b, strict=True))
        for a in itertools.combinations(range(rows), num_pairs)
        for b in itertools.combinations(range(columns), num_pairs)
    ]
    found = monotone_pairs(matrix, num_pairs)
    assert found in possible
    assert cost(found) == min(map(cost, possible))


@pytest.mark.parametrize(
    ("values", "num_pairs"), [([[1.0, 2.0]], 2), ([[1.0]], 0), ([[float("nan")]], 1), ([1.0], 1)]
)
def test_pairs_that_cannot_be(values, num_pairs):
    with pytest.raises(DistillensError, match="layer pairs: "):
        monotone_pairs(values, num_pairs)


def test_rows_without_supervised_positions_are_refused():
    nothing = torch.zeros(0, dtype=torch.long)
    data = [(batches(60)[0][0], Supervised(nothing, nothing))]
    model = small_model("llama")
    for call in (
        lambda: layer_statistics(model, data),
        lambda: layer_matrix(model, model, data),
    ):
        with pytest.raises(DistillensError, match="no supervised position"):
            call()
