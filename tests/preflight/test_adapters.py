"""`--validate` looks at LoRA's modules and at adapters' files, without any weights."""

import json

import pytest
from tiny_run import tiny_recipe

from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

pytest.importorskip("peft", reason="needs the peft extra")
LORA = "models.student_model.lora"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.mark.parametrize(
    ("start", "targets", "expected"),
    [
        (None, "null", "on 2 modules"),
        (None, "[c_attn, lm_head]", "on 3 modules"),
        (None, "all-linear", "on 8 modules"),
        (None, "'.*mlp.c_fc'", "on 2 modules"),
        ("init.from_teacher_layers=[0, 3]", "[c_attn]", "on 4 modules"),
        ("name_or_path=TEACHER", "[c_attn]", "on 4 modules"),
    ],
)
def test_lora_is_put_on_an_empty_model(path, start, targets, expected):
    changes = [f"{LORA}={{r: 2, target_modules: {targets}}}"]
    if start is not None:
        changes.append("models.student_model.init=null")
        changes.append(
            f"models.student_model.{start}".replace("TEACHER", str(path.parent / "teacher"))
        )
    if start is not None and "from_teacher" in start:
        changes[1] = "models.student_model.init.config=null"
    lines = validate_without_weights(load_recipe(path, changes))
    (line,) = [line for line in lines if LORA in line]
    assert line.startswith(f"ok {LORA}: {expected}")


@pytest.mark.parametrize("targets", ["[nonsense]", "'('", "[h]", "[ln_f]", "''"])
def test_modules_that_are_none_or_cannot_be_adapted_are_refused(path, targets):
    with pytest.raises(DistillensError) as caught:
        validate_without_weights(load_recipe(path, [f"{LORA}={{target_modules: {targets}}}"]))
    assert f"{LORA}.target_modules: found" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_expressions_that_would_take_for_ever_are_refused(path):
    with pytest.raises(DistillensError) as caught:
        validate_without_weights(load_recipe(path, [f"{LORA}={{target_modules: '(\\w+\\.?)+#'}}"]))
    assert f"{LORA}.target_modules: found '(" in str(caught.value)
    assert "takes more than 1 s" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "has no adapter_config.json"),
        ("{", "adapter_config.json cannot be read"),
        ('{"a": 1}' + " " * 10_000_000, "expected at most 10000000"),
        ("[" * 10_000, "adapter_config.json cannot be read"),
        ("[]", "adapter_config.json cannot be read"),
        ("{}", "adapter_config.json cannot be read"),
        (json.dumps({"peft_type": 3}), "peft_type: found '3', which peft does not know"),
        (json.dumps({"peft_type": "LARO"}), "peft_type: found 'LARO', which peft does not know"),
        (json.dumps({"peft_type": "PROMPT_TUNING"}), "cannot be merged into"),
        (json.dumps({"peft_type": "LORA"}), "has no adapter_model.safetensors"),
    ],
)
@pytest.mark.parametrize("role", ["teacher_model", "student_model"])
def test_a_folder_that_is_no_adapter_is_refused(path, tmp_path, role, config, expected):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    if config is not None:
        (adapter / "adapter_config.json").write_text(config, encoding="utf-8")
    changes = [f"models.{role}.adapter={adapter}"]
    if role == "student_model":
        teacher = path.parent / "teacher"
        changes.append(f"models.student_model={{name_or_path: {teacher}, adapter: {adapter}}}")
    with pytest.raises(DistillensError) as caught:
        # Trusted, since other types of adapters are otherwise refused before anything is read.
        validate_without_weights(load_recipe(path, changes, trust=True))
    assert f"models.{role}.adapter: " in str(caught.value)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1000
