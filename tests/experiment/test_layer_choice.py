"""`layers: {auto: K, by: divergence}` in a recipe: measured on its rows, by the term's own lens."""

import random

import pytest
import torch
from tiny_run import tiny_recipe
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from distillens_plugin.data.collate import collate
from distillens_plugin.experiment import layer_choice
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.experiment.layer_choice import with_pairs
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.yaml_dumper import to_yaml
from eval_harness.errors import DistillensError

STUDENT = {"model_type": "gpt2", "n_layer": 3, "n_embd": 24, "n_head": 2, "n_positions": 256}
# Wide enough that what layers read differs.
STUDENT["initializer_range"] = 0.3
TERMS = "train.criterion.kwargs.sub_terms"
LENS = f"{TERMS}.lens.criterion.kwargs"
BY_DIVERGENCE = f"{LENS}.layers={{auto: 2, by: divergence, rows: 6}}"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tiny_recipe(tmp_path_factory.mktemp("recipe"))
    folder = path.parent / "teacher"
    teacher = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in teacher.parameters():
        parameter.data *= 10 if parameter.dim() == 2 else 1
    teacher.save_pretrained(folder)
    return path


def recipe_of(path, *overrides):
    config = f"models.student_model.init.config={STUDENT}"
    return load_recipe(path, [config, *overrides])


def built(recipe, capsys=None):
    accelerator = make_accelerator(recipe, None)
    return build_experiment(recipe, accelerator, load_data(recipe))


def means(experiment, rows, norm, step=1):
    """[2, 3] JSD of layers 1-2 of the student and 1-3 of the teacher, in float64, one by one."""
    batch, targets = collate(rows)
    wanted = targets["positions"][::step]
    read = {}
    for role in ("student", "teacher"):
        model = getattr(experiment, role).eval().double()
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states
            through = model.transformer.ln_f if norm == "final" else (lambda x: x)
            read[role] = [
                F.log_softmax(model.lm_head(through(hidden.flatten(0, 1)[wanted])), -1)
                for hidden in states[1:-1]
            ]
        model.float()

    def jsd(p, q):
        mixture = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
        return 0.5 * sum((x.exp() * (x - mixture)).sum(-1).mean().item() for x in (p, q))

    return [[jsd(p, q) for p in read["teacher"]] for q in read["student"]]


@pytest.mark.parametrize("norm", ["identity", "final"])
def test_the_pairs_of_least_divergence_on_a_sample_of_rows(path, capsys, norm):
    experiment = built(recipe_of(path, BY_DIVERGENCE, f"{LENS}.norm={norm}"))
    record = experiment.layer_records["lens"]
    ids = {row.id: index for index, row in enumerate(experiment.train.rows)}
    assert len(set(record["rows"])) == 6 < len(experiment.train)
    values = means(experiment, [experiment.train[ids[row]] for row in record["rows"]], norm)
    for found, expected in zip(record["values"], values, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    # Two student layers leave three ways to pair them with three teacher layers.
    ways = [((1, 2), (a, b)) for a in (1, 2, 3) for b in range(a + 1, 4)]
    totals = {w: sum(values[s - 1][t - 1] for s, t in zip(*w, strict=True)) / 2 for w in ways}
    best = min(totals, key=totals.get)
    assert record["measured"] == {"student": list(best[0]), "teacher": list(best[1])}
    assert record["mean"] == pytest.approx(totals[best], rel=1e-4)
    # Of 3 and 4 blocks, by depth: round(k 3 / 3), and round(k 4 / 3), halves up.
    assert record["by_depth"]["teacher"] == [1, 3]
    assert record["by_depth"]["mean"] == pytest.approx(totals[((1, 2), (1, 3))], rel=1e-4)
    line = next(x for x in capsys.readouterr().out.split("\n") if "by divergence" in x)
    assert f"layers.measured={{student: {list(best[0])}, teacher: {list(best[1])}}}" in line
    assert "of 6 rows" in line
    pairs = experiment.box.criterion.term_dict["lens"][0].pairs(3, 4)
    assert pairs == list(zip(*best, strict=True))


def test_long_rows_are_thinned_evenly(path, monkeypatch):
    monkeypatch.setattr(layer_choice, "MAX_POSITIONS", 100)
    experiment = built(recipe_of(path, f"{LENS}.layers={{auto: 2, by: divergence, rows: 3}}"))
    record = experiment.layer_records["lens"]
    ids = {row.id: index for index, row in enumerate(experiment.train.rows)}
    rows = [experiment.train[ids[row]] for row in record["rows"]]
    supervised = sum(sum(label != -100 for label in row["labels"][1:]) for row in rows)
    step = -(-supervised // 100)
    assert step > 1
    assert record["num_positions"] == -(-supervised // step)
    for found, expected in zip(
        record["values"], means(experiment, rows, "final", step), strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-4)


def test_measuring_changes_nothing_else(path):
    """The recipe that a run keeps trains the same student from the same random numbers."""
    experiment = built(recipe_of(path, BY_DIVERGENCE))
    kept = path.parent / "kept.yaml"
    kept.write_text(to_yaml(experiment.recipe.to_plain()), encoding="utf-8")
    after = torch.rand(3)
    again = built(load_recipe(kept))
    assert torch.equal(torch.rand(3), after)
    assert again.layer_records == {}
    assert again.recipe.to_plain()["train"] == experiment.recipe.to_plain()["train"]
    theirs = again.student.state_dict()
    for name, value in experiment.student.state_dict().items():
        assert torch.equal(value, theirs[name])
    assert experiment.student.training == again.student.training


def test_terms_that_read_alike_share_a_matrix_and_others_have_their_own(path):
    layers = "{auto: 1, by: divergence, rows: 4}"
    terms = [
        f"{LENS}.layers={layers}",
        f"{TERMS}.mse={{criterion: {{key: distillens.hidden_mse, kwargs: {{layers: {layers}}}}}}}",
        f"{TERMS}.cka={{criterion: {{key: distillens.cka, kwargs: {{layers: {layers}}}}}}}",
    ]
    records = built(recipe_of(path, *terms)).layer_records
    # The recipe's lens has norm: final; hidden states have no lens and are read by the paper's.
    assert {name: record["norm"] for name, record in records.items()} == {
        "lens": "final",
        "mse": "identity",
        "cka": "identity",
    }
    assert records["mse"] is records["cka"]
    assert records["mse"]["values"] != records["lens"]["values"]


def test_a_lora_student_and_the_lens_temperature(path):
    recipe = recipe_of(path, BY_DIVERGENCE, f"{LENS}.temperature=4.0", f"{LENS}.divergence=fkl")
    record = built(recipe).layer_records["lens"]
    assert (record["temperature"], record["divergence"]) == (4.0, "fkl")
    lora = recipe_of(
        path,
        BY_DIVERGENCE,
        f"{LENS}.temperature=4.0",
        f"{LENS}.divergence=fkl",
        "models.student_model.lora={r: 2, target_modules: [c_attn]}",
    )
    adapted = built(lora).layer_records["lens"]
    # An adapter starts as the identity.
    for found, expected in zip(adapted["values"], record["values"], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_streamed_and_packed_rows(path, packing):
    data = "train.train_data_loader.packing=true" if packing else "datasets.train.streaming=true"
    steps = ["train.num_epochs=null", "train.num_steps=2"]
    record = built(recipe_of(path, BY_DIVERGENCE, data, *steps)).layer_records["lens"]
    assert len(record["rows"]) == 6
    assert record["measured"]["student"] == [1, 2]


def test_the_sample_follows_the_seed_and_not_the_random_state(path):
    def rows(seed):
        random.seed(seed * 7)
        experiment = built(recipe_of(path, BY_DIVERGENCE, f"seed={seed}"))
        return experiment.layer_records["lens"]["rows"]

    assert rows(3) == rows(3) != rows(4)


def test_more_pairs_than_layers_are_refused(path):
    recipe = recipe_of(path, f"{LENS}.layers={{auto: 3, by: divergence}}")
    with pytest.raises(DistillensError, match=r"lens\.criterion\.kwargs\.layers\.auto = 3"):
        built(recipe)


def test_a_copy_with_pairs_leaves_the_recipe_alone(path):
    recipe = recipe_of(path, BY_DIVERGENCE)
    pairs = {"student": [1, 2], "teacher": [1, 3]}
    copied = with_pairs(recipe, {"lens": pairs})
    assert dict(copied.layer_terms())["lens"].layers.measured.teacher == [1, 3]
    assert dict(recipe.layer_terms())["lens"].layers.to_be_measured
    assert "measured" not in str(recipe.to_plain())
    assert copied.where("seed") == recipe.where("seed")
