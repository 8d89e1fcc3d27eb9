"""`--validate`: what can be told without weights, and what is skipped with its reason."""

import json

import pytest
from local_recipe import CONFIGS, local_recipe, refusal
from recipe_text import DISTILLATION, FINE_TUNING, LENS, write_recipe

from distillens_plugin.preflight.validate import print_full_form, validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError


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
