"""The one protocol of loss terms: nobody asks which one it is, and a new one is a few lines."""

import ast

import pytest
import torch
from boxes import build_box
from example_term import NormGap
from hidden_box import box_recipe
from tiny_run import REPO, tiny_recipe

from distillens_plugin.costs.reading import _chunk_rows
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.losses.lens import DistillLensLoss
from distillens_plugin.losses.term import Term, terms_of
from distillens_plugin.losses.trained_parameters import loss_parameters
from distillens_plugin.losses.weighted_sum import WeightedSum, named_values
from distillens_plugin.recipe.loading import load_recipe

SUMS = ["WeightedSumLoss", "distillens.weighted_sum"]


def names_of_losses(tree: ast.Module, is_own: bool) -> set[str]:
    """What a module calls the classes of losses/: as it imports them, or defines them itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "distillens_plugin.losses"
        ):
            found |= {alias.asname or alias.name for alias in node.names}
        elif is_own and isinstance(node, ast.ClassDef):
            found.add(node.name)
    return found


def questions_of_type(source: str, is_own: bool = False) -> list[str]:
    """isinstance, issubclass, `type(x) is` and `case Term()`, where the type is a loss."""
    tree = ast.parse(source)
    losses = names_of_losses(tree, is_own)
    asked: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass"):
                asked.append(node.args[1])
        elif isinstance(node, ast.MatchClass):
            asked.append(node.cls)
        elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node.left):
            asked += node.comparators
    return [
        f"{name.lineno}: {ast.unparse(question)}"
        for question in asked
        for name in ast.walk(question)
        if isinstance(name, ast.Name) and name.id in losses
    ]


def test_nobody_but_the_base_asks_which_term_it_is():
    wrong = []
    for path in sorted(REPO.glob("distillens_plugin/**/*.py")):
        found = questions_of_type(path.read_text(encoding="utf-8"), path.parent.name == "losses")
        if path.name == "term.py" and path.parent.name == "losses":
            assert len(found) == 1  # as_term
        else:
            wrong += [f"{path.relative_to(REPO)}:{question}" for question in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "question",
    [
        "isinstance(term, HiddenMSE)",
        "issubclass(kind, (int, HiddenMSE))",
        "isinstance(term, HiddenMSE | None)",
        "type(term) is HiddenMSE",
        "match term:\n    case HiddenMSE():\n        pass",
    ],
)
def test_the_check_finds_a_question_of_type(question):
    line = "from distillens_plugin.losses.hidden import HiddenMSE\n"
    assert questions_of_type(line + question)
    assert not questions_of_type(line + question.replace("HiddenMSE", "str"))


def test_every_term_answers_for_itself():
    """To be called, logged, anchored and cached, a term needs no method of its own."""
    for name in ("forward", "named_values", "anchor", "pairs", "trained"):
        assert getattr(DistillLensLoss, name) is getattr(Term, name)
        assert getattr(NormGap, name) is getattr(Term, name)


LAYERS = {"student": [1], "teacher": [2]}
TERMS = {
    "gap": {"key": "example.norm_gap", "kwargs": {}},
    "lens": {"key": "DistillLensLoss", "kwargs": {"layers": LAYERS}},
    "detached": {
        "key": "DistillLensLoss",
        "kwargs": {"layers": LAYERS, "detach_unembedding": True},
    },
    "gram": {"key": "distillens.gram", "kwargs": {"layers": LAYERS}},
    "kd": {"key": "distillens.logits_kd", "kwargs": {}},
}


def example_box(folder, criterion, names=("gap",), **options):
    recipe = box_recipe(folder, "example.norm_gap", criterion)
    recipe["train"]["criterion"]["kwargs"]["sub_terms"] = {
        name: {"criterion": TERMS[name], "weight": 0.5} for name in names
    }
    box = build_box(recipe, **options)
    box.pre_epoch_process(epoch=0)
    return box, *next(iter(box.train_data_loader))


def final_states(model, batch, mask):
    with torch.no_grad():
        return model.transformer(**batch).last_hidden_state[:, :-1][mask].double()


@pytest.mark.parametrize("criterion", SUMS)
def test_a_term_of_ones_own_is_a_loss_with_all_that_ours_have(tmp_path, criterion):
    box, batch, targets = example_box(tmp_path, criterion)
    loss = box.forward_process(batch, targets)
    mask = targets["labels"][:, 1:] != -100
    lengths = [
        final_states(model, batch, mask).norm(dim=-1)
        for model in (box.student_model, box.teacher_model)
    ]
    expected = (lengths[0] - lengths[1]).square().mean().item()
    assert loss.item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert named_values(box.criterion)["gap"].item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in box.student_model.parameters())
    assert box.student_model.transformer.h[0].mlp.c_fc.weight.grad.any()


@pytest.mark.parametrize("criterion", SUMS)
def test_a_batch_with_nothing_supervised_gives_a_term_of_ones_own_zeros(tmp_path, criterion):
    box, batch, targets = example_box(tmp_path, criterion)
    nothing = torch.empty(0, dtype=torch.int64)
    targets = {**targets, "positions": nothing, "next_tokens": nothing}
    loss = box.forward_process(batch, targets)
    assert loss.item() == 0
    assert named_values(box.criterion)["gap"].item() == 0
    loss.backward()
    for name, parameter in box.student_model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_a_term_of_ones_own_weighs_a_batch_by_its_supervised_tokens(tmp_path):
    box, batch, targets = example_box(tmp_path, "distillens.weighted_sum")
    alone = box.forward_process(batch, targets).item()
    count = 4 * targets["positions"].numel()
    quarter = box.forward_process(batch, {**targets, "num_supervised": float(count)})
    assert quarter.item() == pytest.approx(alone / 4, rel=1e-6)


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("criterion", SUMS)
@pytest.mark.parametrize(
    "names",
    [[name] for name in TERMS]
    + [["gap", "detached"], ["gap", "lens"], ["gram", "lens"], ["kd", "detached"]],
    ids="+".join,
)
def test_every_parameter_has_a_gradient_whatever_the_terms_read(
    tmp_path, names, criterion, supervised
):
    """DDP waits for all of them. The unembedding is a parameter of its own here."""
    box, batch, targets = example_box(tmp_path, criterion, names, tied=False)
    if not supervised:
        nothing = torch.empty(0, dtype=torch.int64)
        targets = {**targets, "positions": nothing, "next_tokens": nothing}
    box.forward_process(batch, targets).backward()
    missing = [n for n, p in box.student_model.named_parameters() if p.grad is None]
    assert not missing
    assert {n.partition("/")[0] for n in named_values(box.criterion)} == set(names)


class Scale(torch.nn.Module):
    """A mid-level loss of somebody else's, with a parameter, that knows nothing of ours."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, student_io_dict, teacher_io_dict, targets):
        return self.factor * student_io_dict["x"].mean()


def test_somebody_elses_loss_answers_the_same_questions():
    loss = WeightedSum(sub_terms={"other": {"criterion": Scale(), "weight": 2.0}})
    (weighted,) = terms_of(loss).values()
    assert weighted.factor == 2.0
    assert weighted.term.needs.activations
    assert weighted.term.pairs(4, 4) == []
    assert set(loss_parameters(loss)) == {"other.factor"}
    value = loss({"student": {"x": torch.tensor([1.0, 3.0])}, "teacher": {}}, {}, None)
    assert value.item() == 4.0
    assert named_values(loss)["other"].item() == 2.0


def test_a_loss_without_terms_is_nothing_to_train_or_to_log():
    assert terms_of(torch.nn.MSELoss()) == {}
    assert named_values(torch.nn.MSELoss()) == {}
    assert loss_parameters(torch.nn.MSELoss()) == {}


@pytest.mark.parametrize(
    ("shared", "own", "least"),
    [(None, None, None), (64, None, 64), (None, 8, 8), (64, 8, 8), (4, 8, 4)],
)
def test_the_least_chunk_of_the_walks_terms_counts(tmp_path, monkeypatch, shared, own, least):
    from distillens_plugin.losses import term as module

    given = []
    real = module.walk_in_type

    def spy(groups, reading, readout, chunk_rows):
        given.append(chunk_rows)
        return real(groups, reading, readout, chunk_rows)

    monkeypatch.setattr(module, "walk_in_type", spy)
    path = tiny_recipe(tmp_path)
    kwargs = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.chunk_rows"
    changes = [] if own is None else [f"{kwargs}={own}"]
    changes += [] if shared is None else [f"chunk_rows={shared}"]
    recipe = load_recipe(path, changes)
    accelerator = make_accelerator(recipe, tmp_path / "trackers")
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    box = experiment.box
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    box.forward_process(batch, targets)
    assert given == [least]
    assert _chunk_rows(recipe) == least
