"""A run with `template: chat`: the same on every day, ending turns as the tokenizer's template."""

import json

import pytest
from run_process import change, distillens
from small_tokenizers import CHATML, SIGNS, with_first_token
from tiny_run import save_tiny_model, tiny_recipe
from tiny_study import tiny_study
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillens_plugin.data.examples import load_examples
from distillens_plugin.experiment.data import load_data
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.prepare.teacher_answers import Generation, generate
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.study.evaluation import check_evaluation, evaluation_arguments
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from eval_harness.errors import DistillensError
from eval_harness.results.folder import load_results
from eval_harness.shared.model_folder.trained_with import FILE, training_note


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A tiny pair whose tokenizer has a dated chat template and a first token of its own."""
    folder = tmp_path_factory.mktemp("chat")
    teacher = save_tiny_model(folder / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_tokens(SIGNS, special_tokens=True)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with_first_token(tokenizer).save_pretrained(teacher)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(teacher)
    path = tiny_recipe(folder)
    change(path, "datasets.train.template", "chat")
    change(path, "datasets.train.max_prompt_length", 250)
    change(path, "models.student_model.tokenizer", str(teacher))
    return path


def test_a_chat_run_says_what_is_unusual_and_saves_what_ends_an_answer(recipe):
    done = distillens(recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("prompts begin with '<s>'") == 2  # training and validation data
    assert "responses end with '<|im_end|>'" in done.stdout
    assert "the chat template's date is always 26 Jul 2024" in done.stdout
    assert "26 Jul 2024\n" in done.stdout.partition("prompt:")[2]
    best = recipe.parent / "out" / "best"
    tokenizer = AutoTokenizer.from_pretrained(best)
    settings = json.loads((best / "generation_config.json").read_text(encoding="utf-8"))
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert sorted(settings["eos_token_id"]) == sorted(ends)
    note = json.loads((best / "distillens.json").read_text(encoding="utf-8"))
    assert note.pop("step") > 0
    assert note.pop("score") > 0
    assert note == {"format": 1, "template": "chat", "add_bos_token": True}


def test_validate_tells_the_same_without_weights(recipe):
    change(recipe, "output_dir", str(recipe.parent / "other"))
    lines = validate_without_weights(load_recipe(recipe))
    assert (
        "ok datasets.train: prompts begin with '<s>'; responses end with '<|im_end|>'; the chat "
        "template's date is always 26 Jul 2024"
    ) in lines


def test_a_teacher_that_was_trained_with_other_prompts_is_noticed(recipe):
    file = recipe.parent / "teacher" / FILE
    file.write_text(training_note("alpaca", begins_with_token=False), encoding="utf-8")
    try:
        settings = load_recipe(recipe, [f"output_dir={recipe.parent / 'new'}"])
        lines = validate_without_weights(settings)
        _, train, _ = load_data(settings)
    finally:
        file.unlink()
    for told in ("; ".join(lines), "; ".join(train.notes)):
        assert (
            "WARNING: the teacher was trained with prompts without a first token, but is asked "
            "with prompts that begin with a first token; see add_bos_token"
        ) in told
        assert "trained with the template 'alpaca', but is asked with 'chat'; see template" in told
    assert "WARNING" not in "; ".join(load_data(settings)[1].notes)


def test_generated_answers_come_from_the_prompts_of_training(recipe):
    settings = load_recipe(recipe, ["datasets.train.add_bos_token=false"])
    output = recipe.parent / "answers.jsonl"
    how = Generation(
        backend="hf",
        model_args={"device": "cpu"},
        gen_kwargs={"max_gen_toks": 4},
        keep_unfinished=True,
    )
    generate(settings, output, how)
    (task,) = load_results(output.with_suffix(".answers")).tasks.values()
    protocol = task.fingerprint.protocol
    assert (protocol["template"], protocol["add_bos_token"]) == ("chat", False)
    tokenizer = AutoTokenizer.from_pretrained(recipe.parent / "teacher")
    data = load_examples(settings.datasets.train, tokenizer, where="datasets.train")
    lengths = [sample.arguments["prompt_tokens"] for sample in task.samples]
    assert lengths == [len(row.prompt_ids) for row in data.rows]


def test_a_study_evaluates_as_its_recipe_begins_prompts(tmp_path):
    evaluation = {"tasks": ["gsm8k"]}
    for value, told in (("auto", False), (True, True)):
        path = tiny_study(tmp_path, evaluation=evaluation)
        change(path, "set", {"datasets.train.add_bos_token": value})
        arguments = evaluation_arguments(make_run(load_study(path), "main", "lens", 1), "greedy")
        assert any("add_bos_token" in argument for argument in arguments) is told
    change(path, "evaluation.model_args", {"add_bos_token": "yes"})
    with pytest.raises(DistillensError, match=r"add_bos_token = 'yes', expected auto, true or f"):
        check_evaluation(load_study(path))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("template", "chat", r"datasets.train.template: template 'chat' needs a tokenizer with a"),
        ("add_bos_token", True, r"datasets.train.add_bos_token: add_bos_token = true, but"),
    ],
)
def test_validate_refuses_what_the_tokenizer_lacks(tmp_path, key, value, words):
    path = tiny_recipe(tmp_path)
    change(path, f"datasets.train.{key}", value)
    with pytest.raises(DistillensError, match=words):
        validate_without_weights(load_recipe(path))
