"""No model folder runs its own code without trust."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest
from hostile_code import Pickled, evaluate, refused, with_keys, write_own_code
from tiny_run import tiny_recipe
from tiny_study import ENVIRONMENT
from watched import call

import eval_harness.cli
from distillens_plugin import cli
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import (
    MODEL_FLAG,
    RECIPE_FLAG,
    check_folder,
)


def test_a_models_own_code_runs_by_no_command_without_trust(tmp_path, marker, plain_model):
    model = write_own_code(plain_model, tmp_path / "own", marker)
    for args in ("", ",trust_remote_code=False", ",dtype=float32"):
        outcome = call(eval_harness.cli.main, evaluate(model, args=args))
        assert outcome.code == 2, outcome
    recipe = with_keys(tiny_recipe(tmp_path), {"models.teacher_model.name_or_path": str(model)})
    refused(cli.main, "run", recipe, "--validate")
    for arguments in (
        ["run", recipe, "--dry-run"],
        ["hooks", model],
        ["lens-report", recipe],
        ["tune-lens", model, "--data", tmp_path / "none.jsonl", "--output", "x.safetensors"],
        ["teacher-fisher", model, "--data", tmp_path / "none.jsonl", "--output", "x.safetensors"],
    ):
        assert call(cli.main, [str(a) for a in arguments]).code == 2, arguments


def test_a_models_own_code_runs_where_the_command_line_says_so(tmp_path, plain_model):
    """The other side: the marker of these tests is one that code does leave."""
    marker = tmp_path / "MARKER"
    model = write_own_code(plain_model, tmp_path / "own", marker)
    done = subprocess.run(
        [sys.executable, "-m", "eval_harness", *evaluate(model, args=",trust_remote_code=True")],
        cwd=tmp_path,
        env={**ENVIRONMENT, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert marker.exists()


def test_a_run_with_a_models_own_code_works_where_the_command_line_says_so(tmp_path, plain_model):
    """A teacher with code of its own, and a student that is cut from it and wears LoRA."""
    pytest.importorskip("peft")
    marker = tmp_path / "MARKER"
    model = write_own_code(plain_model, tmp_path / "own", marker)
    student = {"init": {"from_teacher_layers": [0, 2]}, "lora": {"r": 2}}
    student["lora"]["target_modules"] = ["c_attn"]
    teacher = {"name_or_path": str(model), "trust_remote_code": True}
    recipe = tiny_recipe(tmp_path, models={"teacher_model": teacher, "student_model": student})
    message = refused(cli.main, "run", recipe)
    assert RECIPE_FLAG in message
    assert not marker.exists()
    done = subprocess.run(
        [sys.executable, "-m", "distillens_plugin.run", str(recipe), RECIPE_FLAG],
        cwd=tmp_path,
        env={**ENVIRONMENT, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert marker.exists()
    assert (tmp_path / "out" / "best" / "own.py").is_file()


def test_code_that_transformers_need_not_run_does_not_run(tmp_path, marker, plain_model):
    """A config of a known type that also names code, a custom_generate, a tokenizer's auto_map."""
    model = write_own_code(plain_model, tmp_path / "own", marker)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (model / "custom_generate").mkdir()
    shutil.copy(model / "own.py", model / "custom_generate" / "generate.py")
    assert call(eval_harness.cli.main, evaluate(model)).code == 0
    recipe = with_keys(tiny_recipe(tmp_path), {"models.teacher_model.name_or_path": str(model)})
    assert call(cli.main, ["run", str(recipe), "--validate"]).code == 0


def test_pickled_weights_are_read_as_numbers_only(tmp_path, marker, plain_model):
    import torch

    model = shutil.copytree(plain_model, tmp_path / "pickled")
    (model / "model.safetensors").unlink()
    for save in (
        lambda file: torch.save({"transformer.wte.weight": Pickled(marker)}, file),
        lambda file: file.write(pickle.dumps({"a": Pickled(marker)})),
    ):
        with open(model / "pytorch_model.bin", "wb") as file:
            save(file)
        assert call(eval_harness.cli.main, evaluate(model)).code in (1, 2)
    recipe = with_keys(tiny_recipe(tmp_path), {"models.teacher_model.name_or_path": str(model)})
    assert call(cli.main, ["run", str(recipe), "--dry-run"]).code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "own_module"},
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"peft_type": "XLORA"},
        {"peft_type": "SHADOW", "shadow_model": "evil/model"},
    ],
)
def test_an_adapter_that_imports_or_loads_more_than_weights_needs_trust(
    tmp_path, marker, plain_model, changes
):
    pytest.importorskip("peft")
    (tmp_path / "own_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], **changes}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    message = refused(eval_harness.cli.main, *evaluate(plain_model, args=f",peft={adapter}"))
    assert MODEL_FLAG in message
    keys = {"models.teacher_model.adapter": str(adapter)}
    message = refused(cli.main, "run", with_keys(tiny_recipe(tmp_path), keys), "--validate")
    assert RECIPE_FLAG in message
    assert "models.teacher_model.adapter" in message


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "text_config"])
def test_a_config_that_asks_for_code_of_the_hub_needs_trust(tmp_path, key):
    value = {"attn_implementation": "evil/x"} if key == "text_config" else "evil/attention"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", key: value}))
    with pytest.raises(DistillensError, match=f"config.json: .*{MODEL_FLAG}"):
        check_folder(tmp_path, trusted=False, flag=MODEL_FLAG)
    check_folder(tmp_path, trusted=True, flag=MODEL_FLAG)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_configs_are_not_read_without_a_limit(tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "gpt2"}' + " " * 10_000_000)
    with pytest.raises(DistillensError, match=f"{name}: found 100000.. bytes, expected at most"):
        check_folder(tmp_path, trusted=False, flag=MODEL_FLAG)
