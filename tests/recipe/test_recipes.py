"""Every shipped recipe validates without weights or network, and says what the paper says."""

import json
import re

import pytest

from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe

# What stands in for the Hub's names: the real models' config.json, which the repo carries.
CONFIGS = {
    "gpt2": ("teacher-gpt2-1.5B", "gpt2"),
    "gpt2_medium": ("teacher-gpt2-1.5B", "gpt2-medium"),
    "tinyllama": ("Llama-2-7b-hf", "TinyLlama_v1.1"),
    "qwen2.5": ("Qwen2.5-3B", "Qwen2.5-1.5B"),
    "smollm2": ("SmolLM2-135M-Instruct", None),
}
# Student layers, teacher layers, learning rate, epochs, global batch: the paper's table.
PAPER = {
    "gpt2": ([2, 4, 6, 8, 10], [8, 16, 24, 32, 40], 2e-4, 20, 16),
    "gpt2_medium": ([4, 8, 12, 16, 20], [8, 16, 24, 32, 40], 5e-5, 20, 16),
    "tinyllama": ([4, 7, 11, 15, 18], [5, 10, 16, 21, 26], 5e-6, 10, 4),
    "qwen2.5": ([6, 11, 17, 22], [7, 14, 22, 29], 1e-4, 10, 4),
}
# Teacher and student as the README and scripts of the paper's code name them (Qwen: its scripts).
PAPER_MODELS = {
    "gpt2": ("MiniLLM/teacher-gpt2-1.5B", "openai-community/gpt2"),
    "gpt2_medium": ("MiniLLM/teacher-gpt2-1.5B", "openai-community/gpt2-medium"),
    "tinyllama": ("MiniLLM/SFT-Llama-7B", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"),
    "qwen2.5": ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-1.5B"),
}
ALL = [*CONFIGS, "quickstart", "quickstart_teacher", "quickstart_three_pairs"]


def test_no_recipe_is_left_out_of_these_tests(repo):
    assert {path.stem for path in (repo / "recipes").glob("*.yaml")} == set(ALL)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_recipe_validates_against_the_real_configs(repo, tmp_path, name):
    teacher, student = CONFIGS[name]
    overrides = [
        f"output_dir={tmp_path / 'run'}",
        f"models.teacher_model.name_or_path={repo / 'tests' / 'configs' / teacher}",
    ]
    if student is not None:
        overrides.append(
            f"models.student_model.name_or_path={repo / 'tests' / 'configs' / student}"
        )
    lines = validate_without_weights(load_recipe(repo / "recipes" / f"{name}.yaml", overrides))
    assert any(line.startswith("ok the layers of lens") for line in lines)
    assert any(line.startswith("ok vocabularies") for line in lines)
    # Without a network only the Hub's data sets and the tokenizers are left unchecked.
    skipped = [line for line in lines if line.startswith("skipped")]
    assert all("datasets." in line or "the tokenizers" in line for line in skipped)


def test_the_quickstart_recipes_validate_with_what_is_shipped(repo, tmp_path):
    teacher = load_recipe(
        repo / "recipes" / "quickstart_teacher.yaml", [f"output_dir={tmp_path / 'run'}"]
    )
    lines = validate_without_weights(teacher)
    assert not [line for line in lines if line.startswith("skipped")]
    # The student's recipe, against a teacher of the shape that the teacher's recipe makes.
    init = teacher.models.trained.init
    assert init is not None
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(init.config))
    student = load_recipe(
        repo / "recipes" / "quickstart.yaml",
        [
            f"output_dir={tmp_path / 'run'}",
            f"models.teacher_model.name_or_path={tmp_path / 'teacher'}",
            f"models.teacher_model.tokenizer={repo / 'recipes' / 'quickstart' / 'tokenizer'}",
        ],
    )
    lines = validate_without_weights(student)
    assert not [line for line in lines if line.startswith("skipped")]
    assert any(line.startswith("ok the layers of lens") for line in lines)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings_are_the_recipes(repo, name):
    student, teacher, lr, epochs, batch = PAPER[name]
    recipe = load_recipe(repo / "recipes" / f"{name}.yaml")
    train = recipe.train
    lens = dict(recipe.lens_terms())["lens"]
    assert (lens.layers.student, lens.layers.teacher) == (student, teacher)
    assert (lens.norm, lens.divergence, lens.beta, lens.temperature) == ("identity", "jsd", 0.5, 1)
    terms = train.criterion.kwargs.sub_terms
    assert {key: term.weight for key, term in terms.items()} == {"kd": 1, "lens": 1}
    assert terms["kd"].criterion.kwargs == {"divergence": "rkl"}
    assert train.optimizer.kwargs == {"lr": lr, "weight_decay": 0.01}
    assert train.optimizer.max_grad_norm == 1
    assert (train.scheduler.key, train.scheduler.kwargs) == ("cosine", {"min_lr": 1e-7})
    assert (train.num_epochs, train.best_by) == (epochs, "rougeL")
    per_step = train.train_data_loader.kwargs.batch_size
    assert per_step is not None
    assert per_step * train.optimizer.grad_accum_step == batch
    data = recipe.datasets.train
    assert (data.max_length, data.max_prompt_length, data.long_prompts) == (512, 256, "drop")
    assert (data.split, recipe.datasets.model_dump()["validation"]["split"]) == (
        "train[1000:]",
        "train[:1000]",
    )
    assert (recipe.mixed_precision, recipe.seed) == ("bf16", 10)


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_the_papers_models_are_the_recipes(repo, name):
    models = load_recipe(repo / "recipes" / f"{name}.yaml").models
    assert models.teacher_model is not None
    named = (models.teacher_model.name_or_path, models.trained.name_or_path)
    assert named == PAPER_MODELS[name]


def test_the_qwen_student_wears_the_papers_lora_and_template(repo):
    recipe = load_recipe(repo / "recipes" / "qwen2.5.yaml")
    lora = recipe.models.trained.lora
    assert lora is not None
    assert (lora.r, lora.alpha, lora.dropout) == (8, 32, 0.1)
    assert recipe.datasets.train.template == "qwen"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gpt2", False), ("gpt2_medium", False), ("tinyllama", True), ("qwen2.5", True)],
)
def test_gradient_checkpointing_is_on_for_llama_and_qwen(repo, name, expected):
    recipe = load_recipe(repo / "recipes" / f"{name}.yaml")
    assert recipe.models.trained.gradient_checkpointing is expected


@pytest.mark.parametrize("name", ALL)
def test_the_header_gives_the_launch_commands_and_keeps_the_global_batch(repo, name):
    path = repo / "recipes" / f"{name}.yaml"
    header = re.split("\n(?:base|dependencies):", path.read_text(encoding="utf-8"))[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"python -m distillens_plugin.run recipes/{name}.yaml" in header
    batch = re.search(r"global batch is (\d+) rows", header)
    assert batch is not None
    launchers = r"(?:--num_processes |--nproc_per_node=)(\d+)((?:[^#\\]|\\\n#)*)"
    commands = re.findall(launchers, header)
    assert commands
    for num_processes, rest in [("1", ""), *commands]:
        overrides = re.findall(r"--set (\S+)", rest)
        train = load_recipe(path, overrides).train
        per_step = train.train_data_loader.kwargs.batch_size
        assert per_step is not None
        rows = int(num_processes) * per_step * train.optimizer.grad_accum_step
        assert rows == int(batch[1])
