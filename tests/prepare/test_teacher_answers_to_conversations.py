"""SeqKD on conversations: the teacher answers the last question with all that was said before."""

import json

import pytest
from run_process import change, distillens
from small_tokenizers import CHATML, SIGNS
from tiny_run import save_tiny_model, tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillens_plugin.data.examples import load_examples
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.prepare.teacher_answers import Generation, generate
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import read_jsonl

ASK = {"role": "user", "content": "What is 2 + 2?"}
FOUR = {"role": "assistant", "content": "It is 4."}
AGAIN = {"role": "user", "content": "Sure?"}
YES = {"role": "assistant", "content": "Yes."}
ROWS = [{"id": f"row {n}", "messages": [ASK, FOUR, AGAIN, YES]} for n in range(4)]
SHORT = Generation("hf", {"device": "cpu"}, {"max_gen_toks": 4}, keep_unfinished=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny pair with ChatML's signs, and conversations to train on."""
    folder = tmp_path_factory.mktemp("talks")
    teacher = save_tiny_model(folder / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_tokens(SIGNS, special_tokens=True)
    tokenizer.chat_template = CHATML
    model = AutoModelForCausalLM.from_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(teacher)
    return folder


@pytest.fixture
def recipe(folder):
    path = tiny_recipe(folder)
    write(folder / "talks.jsonl", ROWS)
    change(path, "datasets.train.path", str(folder / "talks.jsonl"))
    change(path, "datasets.train.template", "chat")
    change(path, "models.student_model.tokenizer", str(folder / "teacher"))
    change(path, "datasets.validation.path", str(folder / "talks.jsonl"))
    return path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_student_learns_the_teachers_last_answer(recipe, folder):
    output = folder / "answers.jsonl"
    last = ["datasets.train.supervise=last_turn"]
    generate(load_recipe(recipe, last), output, SHORT)
    rows = [row for _, row in read_jsonl(output)]
    assert [row["messages"] for row in rows] == [[ASK, FOUR, AGAIN]] * 4
    assert "generated_by" in rows[0]
    (store,) = output.with_suffix(".answers").glob("*/samples_*.jsonl")
    arguments = next(read_jsonl(store))[1]["arguments"]
    prompt = arguments["gen_args_0"]["arg_0"]
    tokenizer = load_tokenizer(str(folder / "teacher"))
    assert prompt == tokenizer.apply_chat_template(
        [ASK, FOUR, AGAIN], tokenize=False, add_generation_prompt=True
    )
    data = load_examples(
        load_recipe(recipe, [*last, f"datasets.train.path={output}"]).datasets.train,
        tokenizer,
        where="datasets.train",
    )
    assert [row.references for row in data.rows] == [[row["output"]] for row in rows]
    assert tokenizer.decode(data.rows[0].prompt_ids) == prompt
    assert len(data.rows[0].prompt_ids) == arguments["prompt_tokens"]


def test_answers_that_no_teacher_gave_are_not_trained_on(recipe, folder):
    every = load_recipe(recipe)
    with pytest.raises(DistillensError, match=r"row 'row 0' has 2 answers, .*supervise: last_turn"):
        generate(every, folder / "b.jsonl", SHORT)
    write(
        folder / "c.jsonl", [{"messages": [ASK, FOUR, AGAIN], "output": "Yes.", "generated_by": ""}]
    )
    path = [f"datasets.train.path={folder / 'c.jsonl'}", "datasets.train.generated=true"]
    with pytest.raises(DistillensError, match=r"c\.jsonl:1 has answers before the teacher's"):
        validate_without_weights(load_recipe(recipe, path))


def test_a_question_without_an_answer_is_answered_and_a_greeting_is_refused(recipe, folder):
    empty = {"role": "assistant", "content": ""}
    write(folder / "talks.jsonl", [{"messages": [ASK]}, {"messages": [ASK, empty]}])
    generate(load_recipe(recipe), folder / "open.jsonl", SHORT)
    assert [row["messages"] for _, row in read_jsonl(folder / "open.jsonl")] == [[ASK]] * 2
    write(folder / "talks.jsonl", [{"messages": [FOUR]}])
    with pytest.raises(DistillensError, match="row 'line 1': nothing is asked in it"):
        generate(load_recipe(recipe), folder / "greeting.jsonl", SHORT)


def test_an_answer_that_calls_tools_is_refused(recipe, folder):
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {}}]}
    write(folder / "talks.jsonl", [{"messages": [ASK, call]}])
    with pytest.raises(DistillensError, match=r"row 'line 1': its last answer calls tools"):
        generate(load_recipe(recipe), folder / "d.jsonl", SHORT)


def test_a_run_samples_validates_and_shows_answers_to_conversations(recipe):
    change(recipe, "output_dir", str(recipe.parent / "run"))
    change(recipe, "train.best_by", "rougeL")
    change(recipe, "train.on_policy", {"share": 1.0, "max_new_tokens": 5})
    done = distillens(recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = done.stdout.partition("prompt:")[2]
    assert "<|im_start|>assistant" in shown


def test_another_template_is_refused_by_validate_in_one_line(recipe):
    other = load_recipe(recipe, ["datasets.train.template=alpaca"])
    with pytest.raises(DistillensError, match=r"talks\.jsonl:1 has messages, but 'alpaca'"):
        validate_without_weights(other)
