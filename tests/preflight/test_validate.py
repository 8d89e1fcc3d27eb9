"""`--validate`: what can be told without weights, and what is skipped with its reason."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recipe_text import DISTILLATION, FINE_TUNING, LENS, write_recipe

from distillens_plugin.models.hub import Hub, UnreachableError, is_path
from distillens_plugin.preflight.validate import print_full_form, validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError

CONFIGS = Path(__file__).parents[1] / "configs"
REPO = Path(__file__).resolve().parents[2]
ROW = {"instruction": "Add 1 and 2.", "input": "", "output": "3"}


def local_recipe(folder: Path, *overrides: str, text: str = DISTILLATION) -> Recipe:
    """A recipe whose data and configs are here: gpt2 from the 48-layer teacher."""
    data = folder / "data.jsonl"
    if not data.exists():
        data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    given = [
        f"models.teacher_model.name_or_path={CONFIGS / 'teacher-gpt2-1.5B'}",
        f"models.student_model.name_or_path={CONFIGS / 'gpt2'}",
    ]
    if text is FINE_TUNING:
        given = [f"models.model.name_or_path={CONFIGS / 'gpt2'}"]
    given += [f"datasets.train.path={data}", f"output_dir={folder / 'run'}"]
    return load_recipe(write_recipe(folder, text), [*given, *overrides])


def refusal(recipe: Recipe) -> str:
    with pytest.raises(DistillensError) as caught:
        validate_without_weights(recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_check_prints_what_it_found(tmp_path):
    lines = validate_without_weights(local_recipe(tmp_path))
    assert all(line.startswith(("ok ", "skipped ")) for line in lines)
    text = "\n".join(lines)
    assert "ok train.criterion: kd, lens" in text
    assert f"ok datasets.train: {tmp_path / 'data.jsonl'}, 1 rows" in text
    assert "skipped datasets.validation because the recipe has none" in text
    assert "teacher-gpt2-1.5B, 48 layers" in text
    assert "ok the layers of lens: 1-2 2-4 (student has 0 to 12, teacher has 0 to 48)" in text
    assert "ok vocabularies: teacher_model 50257, student_model 50257" in text
    assert "skipped the tokenizers because" in text
    assert not (tmp_path / "run").exists()


def test_fine_tuning_is_checked_without_a_teacher(tmp_path):
    lines = validate_without_weights(local_recipe(tmp_path, text=FINE_TUNING))
    assert any("ok models.model" in line and "12 layers" in line for line in lines)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            "{student: [1, 13], teacher: [2, 4]}",
            "student[1] = 13, but the student has layers 0 to 12",
        ),
        ("{student: [1, 12], teacher: [2, 49]}", "the teacher has layers 0 to 48"),
        ("{auto: 13}", "the student has 12 blocks"),
        ("{auto: 12, by: divergence}", "the student has 12 blocks: expected at most 11 pairs"),
    ],
)
def test_a_layer_out_of_range_says_the_range(tmp_path, layers, expected):
    recipe = local_recipe(tmp_path, f"{LENS}.layers={layers}")
    assert expected in refusal(recipe)


def test_one_known_model_is_checked_when_the_other_is_out_of_reach(tmp_path):
    away = "models.teacher_model.name_or_path=nobody/nothing-here"
    lines = validate_without_weights(local_recipe(tmp_path, away))
    assert any(
        line.startswith("skipped models.teacher_model, nobody/nothing-here") for line in lines
    )
    layers = next(line for line in lines if "layers of lens" in line)
    assert layers.endswith("; skipped the teacher's range because its config is not known")
    wrong = local_recipe(tmp_path, away, f"{LENS}.layers={{student: [13], teacher: [2]}}")
    assert "the student has layers 0 to 12" in refusal(wrong)
    auto = validate_without_weights(local_recipe(tmp_path, away, f"{LENS}.layers={{auto: 2}}"))
    assert any(line.startswith("skipped the layers of lens") for line in auto)


def test_a_hub_that_does_not_answer_skips_with_the_reason(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path), [f"output_dir={tmp_path / 'run'}"])
    lines = validate_without_weights(recipe)
    skipped = [line for line in lines if line.startswith("skipped")]
    assert len(skipped) == 6
    assert sum("the Hub cannot be reached" in line for line in skipped) == 4


def test_a_missing_data_file_is_no_hub_name(tmp_path):
    for name in (tmp_path / "none.jsonl", "none.jsonl", "./none"):
        text = refusal(local_recipe(tmp_path, f"datasets.train.path={name}"))
        assert "datasets.train.path: there is no file" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"instruction": "a", "output": "b"}\n{"instruction": \n', "data.jsonl:2:"),
        ('{"instruction": "a"}\n', "data.jsonl:1"),
        ("", "data.jsonl"),
    ],
)
def test_a_malformed_data_file_names_the_place(tmp_path, content, expected):
    (tmp_path / "data.jsonl").write_text(content, encoding="utf-8")
    assert expected in refusal(local_recipe(tmp_path))


def test_an_unknown_template_is_named_with_its_key(tmp_path):
    text = refusal(local_recipe(tmp_path, "datasets.train.template=alpacca"))
    assert "datasets.train.template" in text
    assert "'alpaca'" in text


def test_a_folder_without_a_config_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    empty = f"models.student_model.name_or_path={tmp_path / 'empty'}"
    assert "config.json: cannot be read" in refusal(local_recipe(tmp_path, empty))
    missing = f"models.student_model.name_or_path={tmp_path / 'none'}"
    assert "there is no folder" in refusal(local_recipe(tmp_path, missing))
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "gpt22"}')
    assert "gpt22" in refusal(local_recipe(tmp_path, empty))


def test_an_output_folder_that_holds_a_run_is_refused_unless_it_may_be_replaced(tmp_path):
    recipe = local_recipe(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert "--overwrite" in refusal(recipe)
    assert validate_without_weights(recipe, overwrite=True)


def test_a_loss_that_torchdistill_does_not_know_is_refused(tmp_path):
    term = "train.criterion.kwargs.sub_terms.x"
    with pytest.raises(DistillensError) as caught:
        local_recipe(tmp_path, f"{term}={{criterion: {{key: KDLos, kwargs: {{}}}}}}")
    assert f"{term}.criterion.key: found 'KDLos'" in str(caught.value)
    assert "'KDLoss'" in str(caught.value)
    known = local_recipe(tmp_path, f"{term}={{criterion: {{key: KDLoss, kwargs: {{}}}}}}")
    assert validate_without_weights(known)


def test_a_module_that_is_not_installed_is_refused(tmp_path):
    text = "dependencies: [torchdistill.nowhere]\n" + DISTILLATION
    with pytest.raises(DistillensError, match=r"No module named 'torchdistill\.nowhere'"):
        local_recipe(tmp_path, text=text)


def test_a_student_cut_from_the_teacher_has_its_width_and_fewer_blocks(tmp_path):
    cut = "models.student_model={init: {from_teacher_layers: [0, 10, 47]}}"
    lines = validate_without_weights(local_recipe(tmp_path, cut))
    assert "ok models.student_model: 3 of the teacher's 48 blocks" in lines
    assert any("student has 0 to 3" in line for line in lines)
    wrong = "models.student_model={init: {from_teacher_layers: [0, 48]}}"
    text = refusal(local_recipe(tmp_path, wrong))
    assert "found 48, but the teacher has blocks 0 to 47" in text


def test_a_random_student_is_built_from_its_config_alone(tmp_path):
    config = "{model_type: gpt2, n_layer: 3, n_head: 2, n_embd: 8}"
    given = f"models.student_model={{init: {{config: {config}}}}}"
    lines = validate_without_weights(local_recipe(tmp_path, given))
    assert "ok models.student_model: 3 layers, random weights" in lines
    bad = given.replace("gpt2,", "gpt22,")
    assert "models.student_model.init.config" in refusal(local_recipe(tmp_path, bad))


def test_an_adapter_must_be_one(tmp_path):
    (tmp_path / "adapter").mkdir()
    given = f"models.teacher_model.adapter={tmp_path / 'adapter'}"
    assert "has no adapter_config.json" in refusal(local_recipe(tmp_path, given))
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    lines = validate_without_weights(local_recipe(tmp_path, given))
    assert f"ok models.teacher_model.adapter: {tmp_path / 'adapter'}" in lines
    missing = f"models.teacher_model.adapter={tmp_path / 'none'}"
    assert "there is no folder" in refusal(local_recipe(tmp_path, missing))


def test_tokenizers_that_differ_are_refused(tmp_path, repo, shared):
    ours = f"models.student_model.tokenizer={repo / 'recipes' / 'quickstart' / 'tokenizer'}"
    theirs = f"models.teacher_model.tokenizer={shared / 'tokenizers' / 'gpt2'}"
    assert "different tokenizers" in refusal(local_recipe(tmp_path, ours, theirs))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path, repo):
    tokenizer = f"models.student_model.tokenizer={repo / 'recipes' / 'quickstart' / 'tokenizer'}"
    config = json.loads((CONFIGS / "gpt2" / "config.json").read_text())
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    small = f"models.student_model.name_or_path={tmp_path / 'small'}"
    text = refusal(local_recipe(tmp_path, small, tokenizer))
    assert "its vocabulary has 10 ids, but the tokenizer" in text


def test_the_full_form_is_printed_as_yaml(tmp_path, capsys):
    print_full_form(local_recipe(tmp_path))
    printed = capsys.readouterr().out
    assert "- transformer.h.47" not in printed
    assert "- transformer.h.3\n" in printed
    assert printed.startswith("# scheduler.kwargs: the number of steps follows from the data")


def test_a_student_with_lora_is_hooked_where_peft_puts_its_blocks(tmp_path, capsys):
    print_full_form(local_recipe(tmp_path, "models.student_model.lora={r: 4}"))
    assert "- base_model.model.transformer.h.0\n" in capsys.readouterr().out


def test_the_full_form_needs_the_configs(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path))
    with pytest.raises(DistillensError, match="the full form needs the model's config: skipped"):
        print_full_form(recipe)


def test_after_one_request_without_an_answer_no_second_is_made(monkeypatch):
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", fail)
    hub = Hub()
    for name in ("a/b", "c/d"):
        with pytest.raises(UnreachableError, match="OSError"):
            hub.require("model", name, None, "models.model")
    assert len(calls) == 1


def test_a_repository_that_is_not_there_is_an_error_and_no_skip(monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    response: Any = SimpleNamespace(headers={}, request=None)

    def fail(*args, **kwargs):
        raise RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", fail)
    with pytest.raises(DistillensError, match="no such dataset on the Hub"):
        Hub().require("dataset", "a/b", None, "datasets.train.path")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", False),
        ("org/model", False),
        ("/a", True),
        ("./a", True),
        ("a/b/c", True),
        ("~/a", True),
    ],
)
def test_only_what_no_hub_name_can_be_is_a_path(name, expected):
    assert is_path(name) == expected


def test_a_folder_of_more_files_than_data_sets_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("distillens_plugin.preflight.validate._MAX_DATA_FILES", 3)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    found = refusal(local_recipe(tmp_path, f"datasets.train.path={folder}"))
    assert "datasets.train.path: " in found
    assert "more than 3 files" in found


@pytest.mark.parametrize("key", ["models.teacher_model.adapter", "datasets.train.path"])
def test_a_name_longer_than_any_file_can_have_is_refused(tmp_path, key):
    for name in ("x" * 300, "a/" * 2500, "x" * 300 + ".jsonl"):
        assert key in refusal(local_recipe(tmp_path, f"{key}={name}"))


def test_too_long_names_of_generated_answers_are_refused(tmp_path):
    given = ("datasets.train.generated=true", f"datasets.train.path={'x' * 300}.jsonl")
    assert "datasets.train.path" in refusal(local_recipe(tmp_path, *given))


VALIDATE = """
import sys
from distillens_plugin.run import main
code = main(sys.argv[1:])
print("loaded:", *(name for name in ("torch", "torchdistill") if name in sys.modules))
sys.exit(code)
"""


def validate(recipe: Path, *options: str, before: str = "") -> list[str]:
    """The lines of `--validate` in a process of its own; the last one names what it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", before + VALIDATE, str(recipe), "--validate", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LOADING = "loading torch and transformers ..."


def test_a_recipe_that_needs_no_torch_is_validated_without(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    tokenizer = REPO / "recipes" / "quickstart" / "tokenizer"
    options = (
        f"--set=models.teacher_model.name_or_path={CONFIGS / 'teacher-gpt2-1.5B'}",
        f"--set=models.student_model.name_or_path={CONFIGS / 'gpt2'}",
        f"--set=models.teacher_model.tokenizer={tokenizer}",
        f"--set=models.student_model.tokenizer={tokenizer}",
        f"--set=datasets.train.path={data}",
        f"--output_dir={tmp_path / 'run'}",
    )
    recipe = write_recipe(tmp_path)
    *lines, loaded = validate(recipe, *options)
    assert loaded == "loaded:"
    assert LOADING not in lines
    text = "\n".join(lines)
    assert "ok the layers of lens: 1-2 2-4" in text
    assert "ok tokenizer: " in text
    # Where the models are built all the same, they are found to be the same.
    built = (
        "import torch, torchdistill\n"
        "from distillens_plugin.preflight import models\n"
        "models.known_facts = lambda *_, **__: None\n"
        "from distillens_plugin.models import tokenizers\n"
        "tokenizers._needs_torch = lambda path: True\n"
    )
    *with_torch, loaded = validate(recipe, *options, before=built)
    assert loaded == "loaded: torch torchdistill"
    assert with_torch == lines


def test_a_recipe_whose_models_are_out_of_reach_needs_no_torch(tmp_path):
    # With a cache of its own, in which nothing can lie.
    name = tmp_path.name
    *lines, loaded = validate(
        write_recipe(tmp_path),
        f"--set=models.teacher_model.name_or_path=nobody/{name}-teacher",
        f"--set=models.student_model.name_or_path=nobody/{name}-student",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert loaded == "loaded:"
    assert sum("the Hub cannot be reached" in line for line in lines) == 4


def test_what_needs_torch_is_announced(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    lines = validate(
        write_recipe(tmp_path, FINE_TUNING),
        f"--set=models.model.name_or_path={CONFIGS / 'gpt2'}",
        "--set=models.model.lora.r=2",
        f"--set=datasets.train.path={data}",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert lines.count(LOADING) == 1
    assert lines[-1].startswith("loaded: torch")
    assert any(line.startswith("ok models.model.lora: on 12 modules") for line in lines)
