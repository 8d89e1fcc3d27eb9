"""SeqKD: the teacher's answers become training rows; what is no such file is refused."""

import json
import os
import subprocess
import sys

import pytest
from fake_completions import FakeCompletions
from fake_server import SAMPLE, running
from tiny_run import ASSETS, REPO, tiny_recipe

from distillens_plugin.data.examples import load_examples
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.prepare.teacher_answers import Generation, generate
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.results.folder import load_results
from eval_harness.shared.files.jsonl import read_jsonl
from eval_harness.shared.files.lock import FolderLock

SEQKD = REPO / "recipes" / "methods" / "seqkd.yaml"
ROWS = ["datasets.train.num_rows=4"]


def command(recipe, output, *more):
    line = [sys.executable, "-m", "distillens_plugin.cli", "generate", str(recipe), "--output"]
    line += [str(output), "--model", "hf", "--model_args", "device=cpu", *more]
    line += ["--set", ROWS[0]]
    return subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A tiny recipe and four answers of its teacher, made by the command."""
    folder = tmp_path_factory.mktemp("seqkd")
    recipe, output = tiny_recipe(folder), folder / "answers.jsonl"
    done = command(recipe, output, "--gen_kwargs", "max_gen_toks=5", "--keep_unfinished")
    assert done.returncode == 0, done.stderr
    return recipe, output, done.stdout


def test_the_command_writes_one_row_a_prompt_with_the_teachers_answer(generated):
    recipe, output, said = generated
    rows = [row for _, row in read_jsonl(output)]
    assert f"{len(rows)} of 4 answers to 4 prompts" in said
    source = {row["instruction"]: row for _, row in read_jsonl(ASSETS / "train.jsonl")}
    teacher = str(recipe.parent / "teacher")
    for row in rows:
        assert row["generated_by"] == teacher
        assert row["output"] != source[row["instruction"]]["output"]


def test_the_answers_are_those_of_the_models_own_greedy_decoding(generated):
    import torch
    from transformers import AutoModelForCausalLM

    from eval_harness.shared.text.answers import cut_answer
    from eval_harness.shared.text.templates import render_prompt

    recipe, output, _ = generated
    tokenizer = load_tokenizer(str(recipe.parent / "teacher"))
    model = AutoModelForCausalLM.from_pretrained(recipe.parent / "teacher").eval()
    for _, row in read_jsonl(output):
        prompt = render_prompt("alpaca", row["instruction"], row["input"])
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        for _ in range(5):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        tail = ids[0, -5:].tolist()
        if tokenizer.eos_token_id in tail:
            tail = tail[: tail.index(tokenizer.eos_token_id)]
        assert row["output"] == cut_answer(tokenizer.decode(tail, skip_special_tokens=True))


def test_a_second_call_generates_nothing_again(generated, capsys):
    recipe, output, _ = generated
    stores = list(output.with_suffix(".answers").glob("*/answers_*.jsonl"))
    assert len(stores) == 1
    before, rows = stores[0].read_bytes(), output.read_bytes()
    how = Generation("hf", {"device": "cpu"}, {"max_gen_toks": 5}, keep_unfinished=True)
    generate(load_recipe(recipe, ROWS), output, how)
    assert stores[0].read_bytes() == before
    assert output.read_bytes() == rows
    assert "tokens/s" not in capsys.readouterr().err


def test_a_second_process_is_refused_while_one_writes_the_same_file(tmp_path):
    recipe, output = load_recipe(tiny_recipe(tmp_path), ROWS), tmp_path / "answers.jsonl"
    message = f"in use by process {os.getpid()} on "
    with FolderLock(tmp_path / "answers.answers"), pytest.raises(DistillensError, match=message):
        generate(recipe, output, Generation("hf", {"device": "cpu"}))


def test_the_student_is_trained_on_the_answers(generated):
    path, output, _ = generated
    recipe = load_recipe(
        path,
        [
            f"datasets.train.path={output}",
            f"models.student_model.tokenizer={path.parent / 'teacher'}",
        ],
        fragments=[SEQKD],
    )
    assert not recipe.is_distillation
    lines = validate_without_weights(recipe)
    assert any("generated answers" in line for line in lines)
    tokenizer = load_tokenizer(str(path.parent / "teacher"))
    data = load_examples(recipe.datasets.train, tokenizer, where="datasets.train")
    texts = [row["output"] for _, row in read_jsonl(output)]
    assert [row.references for row in data.rows] == [[text] for text in texts]


def test_seqkd_without_generated_answers_is_refused_with_the_command_to_make_them(tmp_path):
    path = tiny_recipe(tmp_path)
    student = f"models.student_model.tokenizer={tmp_path / 'teacher'}"
    recipe = load_recipe(path, [student], fragments=[SEQKD])
    with pytest.raises(DistillensError) as caught:
        validate_without_weights(recipe)
    assert "train.jsonl:1 is not a generated answer" in str(caught.value)
    assert "distillens generate RECIPE --output FILE.jsonl" in str(caught.value)
    hub = load_recipe(path, [student, "datasets.train.path=some/data"], fragments=[SEQKD])
    with pytest.raises(DistillensError, match=r"found 'some/data'; make them with"):
        validate_without_weights(hub)


def test_answers_that_reached_the_limit_are_left_out(tmp_path):
    recipe = load_recipe(tiny_recipe(tmp_path), ROWS)
    how = Generation("hf", {"device": "cpu"}, {"max_gen_toks": 1})
    with pytest.raises(RunFailure, match="none of 4 prompts has a finished answer"):
        generate(recipe, tmp_path / "a.jsonl", how)
    assert not (tmp_path / "a.jsonl").exists()


def test_an_answer_that_was_cut_at_the_next_prompt_is_finished(generated, capsys):
    recipe, output, _ = generated
    texts = [row["output"] for _, row in read_jsonl(output)]
    stop = next(text for text in texts if len(text) > 3)[2:]
    how = Generation("hf", {"device": "cpu"}, {"max_gen_toks": 5, "until": [stop]})
    # The answers are those of the first call; only their cut is another one.
    before = output.read_bytes()
    try:
        generate(load_recipe(recipe, ROWS), output, how)
        rows = [row["output"] for _, row in read_jsonl(output)]
    finally:
        output.write_bytes(before)
    assert "tokens/s" not in capsys.readouterr().err
    assert rows == [text.split(stop)[0] for text in texts if stop in text and text.split(stop)[0]]


@pytest.mark.parametrize("newline", [None, "<n>"])
def test_a_mark_for_a_newline_is_one_where_the_training_data_say_so(tmp_path, newline):
    recipe, output = tiny_recipe(tmp_path), tmp_path / "answers.jsonl"
    row = {"instruction": "Fill<n>Vec<n>", "input": "a<n>b", "output": "c<n>d"}
    (tmp_path / "marks.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    sets = [f"datasets.train.path={tmp_path / 'marks.jsonl'}"]
    sets += [f"datasets.train.newline={newline}"] if newline else []
    settings = load_recipe(recipe, sets)
    how = Generation(
        backend="hf",
        model_args={"device": "cpu"},
        gen_kwargs={"max_gen_toks": 4},
        keep_unfinished=True,
    )
    generate(settings, output, how)
    (task,) = load_results(output.with_suffix(".answers")).tasks.values()
    (sample,) = task.samples
    (trained,) = load_examples(
        settings.datasets.train, load_tokenizer(str(tmp_path / "teacher")), where="t"
    ).rows
    mark = "\n" if newline else "<n>"
    assert (
        f"Fill{mark}Vec{mark}\n\n### Input:\na{mark}b\n" in sample.arguments["gen_args_0"]["arg_0"]
    )
    assert sample.arguments["prompt_tokens"] == len(trained.prompt_ids)
    assert trained.references == [f"c{mark}d"]
    assert task.fingerprint.protocol["newline"] == newline


def test_several_seeds_give_rows_with_ids_of_their_own(tmp_path):
    recipe = load_recipe(tiny_recipe(tmp_path), ROWS)
    sampled = {"max_gen_toks": 4, "temperature": 1.0}
    how = Generation("hf", {"device": "cpu"}, sampled, seeds=[1, 2], keep_unfinished=True)
    generate(recipe, tmp_path / "a.jsonl", how)
    rows = [row for _, row in read_jsonl(tmp_path / "a.jsonl")]
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["id"].rpartition(" ")[2] for row in rows} == {"1", "2"}


def test_mistakes_are_refused_before_anything_is_loaded(tmp_path):
    recipe = load_recipe(tiny_recipe(tmp_path))
    with pytest.raises(DistillensError, match=r"ends in \.jsonl"):
        generate(recipe, tmp_path / "a.json", Generation())
    sft = load_recipe(
        tiny_recipe(tmp_path),
        [f"models.student_model.tokenizer={tmp_path / 'teacher'}"],
        fragments=[REPO / "recipes" / "methods" / "sft.yaml"],
    )
    with pytest.raises(DistillensError, match="found no teacher_model to answer"):
        generate(sft, tmp_path / "a.jsonl", Generation())


def test_a_served_teacher_answers(generated, tmp_path):
    recipe = load_recipe(generated[0], ROWS)
    with running(FakeCompletions()) as server:
        arguments = {"base_url": f"{server.url}/v1", "num_concurrent": 2}
        how = Generation("server", arguments, {"max_gen_toks": 5}, keep_unfinished=True)
        assert "of 4 answers to 4 prompts" in generate(recipe, tmp_path / "answers.jsonl", how)
    asked = [body for call, body in server.calls if call == SAMPLE]
    (longest,) = {body["max_tokens"] for body in asked} - {1}
    assert longest == 5
