"""Every fragment in recipes/methods: it validates over the quickstart and GPT-2, and trains."""

import math

import pytest
import torch
from tiny_run import ASSETS, REPO, save_tiny_model, tiny_recipe
from transformers import AutoModelForCausalLM

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.lens.translators import save_translators
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import write_jsonl

METHODS = sorted(path.stem for path in (REPO / "recipes" / "methods").glob("*.yaml"))
# What a method needs that no recipe can have ready, as --set.
NEEDS: dict[str, list[str]] = {
    "seqkd": ["datasets.train.path={answers}"],
    "tuned_lens": [
        "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.teacher_translators={translators}"
    ],
    "router_loss": [
        "models.student_model={init: {config: {model_type: mixtral, num_hidden_layers: {layers}, "
        "hidden_size: 24, intermediate_size: 32, num_attention_heads: 2, num_key_value_heads: 2, "
        "num_local_experts: 2, max_position_embeddings: 1024}}, tokenizer: {tokenizer}}"
    ],
}
CONFIGS = REPO / "tests" / "configs"
SETTINGS = {
    "quickstart": [],
    "gpt2": [
        f"models.teacher_model={{name_or_path: {CONFIGS / 'teacher-gpt2-1.5B'}}}",
        f"models.student_model.name_or_path={CONFIGS / 'gpt2'}",
    ],
}
TEACHERLESS = {"sft", "seqkd"}


def needs(method, folder, base=None):
    answers = folder / "answers.jsonl"
    rows = [
        {"id": str(n), "instruction": "Add.", "output": "Two.", "generated_by": "a teacher"}
        for n in range(24)
    ]
    write_jsonl(answers, rows)
    layers, width = (48, 1600) if base == "gpt2" else (4, 32)
    translators = folder / "translators.safetensors"
    if method == "tuned_lens":
        # One row of zeros as large as the weights would be is enough for the header's sake.
        shape = (1, 1) if base == "gpt2" else (width, width)
        maps = {k: (torch.zeros(shape), torch.zeros(width)) for k in range(layers)}
        save_translators(translators, maps, num_layers=layers, notes={})
    tokenizer = {"gpt2": CONFIGS / "gpt2", "quickstart": ASSETS / "tokenizer"}.get(base)
    made = {
        "{answers}": str(answers),
        "{translators}": str(translators),
        "{layers}": "12" if base == "gpt2" else "4",
        "{tokenizer}": str(tokenizer or folder / "teacher"),
    }
    texts = NEEDS.get(method, [])
    for word, path in made.items():
        texts = [text.replace(word, path) for text in texts]
    return texts


def fragment(name):
    return REPO / "recipes" / "methods" / f"{name}.yaml"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Four layers, as the quickstart's teacher."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "teacher")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", SETTINGS)
def test_a_method_validates_over_a_recipe(tmp_path, teacher, base, method):
    changes = list(SETTINGS[base]) if method not in TEACHERLESS else SETTINGS[base][1:]
    if base == "quickstart" and method not in TEACHERLESS:
        changes.append(f"models.teacher_model.name_or_path={teacher}")
    changes += [f"output_dir={tmp_path / 'out'}", *needs(method, tmp_path, base)]
    recipe = load_recipe(REPO / "recipes" / f"{base}.yaml", changes, fragments=[fragment(method)])
    assert recipe.is_distillation == (method not in TEACHERLESS)
    lines = validate_without_weights(recipe)
    assert not [line for line in lines if line.startswith("skipped the layers")]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains(tmp_path, method):
    recipe = load_recipe(
        tiny_recipe(tmp_path),
        [
            "datasets.validation.num_rows=2",
            *([] if method == "router_loss" else ["models.student_model.init.config.n_layer=4"]),
            f"models.student_model.tokenizer={tmp_path / 'teacher'}",
            *needs(method, tmp_path),
        ],
        fragments=[fragment(method)],
    )
    accelerator = make_accelerator(recipe, None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    before = {name: p.detach().clone() for name, p in experiment.student.named_parameters()}
    box = experiment.box
    box.pre_epoch_process(epoch=0)
    result = Trainer(box, accelerator).step(next(windows(box.train_data_loader, 1, accelerator)))
    assert math.isfinite(result.loss)
    assert set(recipe.train.criterion.kwargs.sub_terms) <= set(result.values)
    moved = [n for n, p in experiment.student.named_parameters() if not p.equal(before[n])]
    assert moved


def test_a_student_cut_from_its_teacher_is_fine_tuned_too(tmp_path, teacher):
    changes = [
        "models.student_model={init: {from_teacher_layers: [0, 2]}}",
        "datasets.validation=null",
    ]
    path = tiny_recipe(tmp_path)
    with pytest.raises(DistillensError, match=r"no teacher to cut the student from; expected init"):
        load_recipe(path, changes, fragments=[fragment("sft")])
    changes.append(f"models.student_model.init.teacher={teacher}")
    recipe = load_recipe(path, changes, fragments=[fragment("sft")])
    lines = validate_without_weights(recipe)
    assert "ok models.student_model: 2 of the teacher's 4 blocks" in lines
    experiment = build_experiment(recipe, make_accelerator(recipe, None), load_data(recipe))
    whole = AutoModelForCausalLM.from_pretrained(teacher)
    weights, name = whole.state_dict(), "transformer.h.{}.mlp.c_fc.weight"
    cut = experiment.student.state_dict()
    assert cut[name.format(1)].equal(weights[name.format(2)])
    assert name.format(2) not in cut
    with pytest.raises(DistillensError, match="without from_teacher_layers; delete it"):
        load_recipe(path, ["models.student_model.init.teacher=x"])
