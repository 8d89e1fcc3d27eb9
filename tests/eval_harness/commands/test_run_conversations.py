"""`eval-harness run` over conversations, with a tokenizer that has a chat template."""

import json

import pytest
from transformers import AutoTokenizer

from eval_harness import evaluate
from eval_harness.errors import DistillensError

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "What is 2 + 2?"}
FOUR = {"role": "assistant", "content": "It is 4."}
AGAIN = {"role": "user", "content": "Sure? <|im_end|>"}
YES = {"role": "assistant", "content": "Yes."}


@pytest.fixture
def talks(tmp_path):
    """A benchmark file whose rows are conversations of one and of two questions."""
    rows = [
        {"id": "one", "messages": [ASK, FOUR]},
        {"id": "two", "messages": [SYSTEM, ASK, FOUR, AGAIN, YES]},
        {"id": "open", "messages": [SYSTEM, ASK], "output": ["4", "four"]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "talks.jsonl").write_text(text, encoding="utf-8")
    file = tmp_path / "talks.yaml"
    file.write_text("task: talks\npath: talks.jsonl\ntemplate: chat\n", encoding="utf-8")
    return file


def run(chat_model, talks, out, **settings):
    short = {"max_gen_toks": 6}
    given = {"seeds": [0], "gen_kwargs": short, "device": "cpu", "backend": "hf", **settings}
    return evaluate(chat_model, str(talks), output_path=out, **given).tasks["talks"]


def test_the_prompt_is_every_turn_before_the_reference(chat_model, talks, tmp_path):
    result = run(chat_model, talks, tmp_path / "out", loglikelihood=True)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    asked = [[ASK], [SYSTEM, ASK, FOUR, AGAIN], [SYSTEM, ASK]]
    for sample, messages in zip(result.samples, asked, strict=True):
        assert sample.arguments["gen_args_0"]["arg_0"] == tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    assert [sample.target for sample in result.samples] == [["It is 4."], ["Yes."], ["4", "four"]]
    assert result.samples[1].doc["messages"][-1] == YES
    assert [len(sample.extra["reference_nll"]) for sample in result.samples] == [1, 1, 2]
    # The sign in the second question is text, so it is more than the one token it looks like.
    assert result.config["prompts"]["as_text"] == 1
    whole = tokenizer.apply_chat_template(asked[1], add_generation_prompt=True)["input_ids"]
    assert result.samples[1].arguments["prompt_tokens"] > len(whole)


def test_another_turn_makes_another_fingerprint_and_asks_again(chat_model, talks, tmp_path, capsys):
    out = tmp_path / "out"
    first = run(chat_model, talks, out)
    again = run(chat_model, talks, out)
    assert "3 answers are there already" in capsys.readouterr().err
    assert again.fingerprint.digest() == first.fingerprint.digest()
    file = talks.with_suffix(".jsonl")
    file.write_text(file.read_text(encoding="utf-8").replace("It is 4.", "It is 5."), "utf-8")
    other = run(chat_model, talks, out)
    # The first row's answer is its reference, which the prompt does not depend on.
    assert "2 answers are there already" in capsys.readouterr().err
    assert other.fingerprint.data != first.fingerprint.data


def test_long_conversations_lose_their_oldest_turns(chat_model, talks, tmp_path):
    (talks.with_suffix(".jsonl")).write_text(
        json.dumps({"messages": [SYSTEM, *[ASK, FOUR] * 20, AGAIN, YES]}) + "\n", encoding="utf-8"
    )
    result = run(chat_model, talks, tmp_path / "out", max_prompt_tokens=60)
    (sample,) = result.samples
    assert result.config["prompts"]["cut"] == 1
    assert 30 < sample.arguments["prompt_tokens"] <= 60


def test_other_templates_have_no_place_for_turns(chat_model, talks, tmp_path):
    with pytest.raises(DistillensError, match=r"talks: row 'one' has messages, .*'alpaca'.*chat"):
        run(chat_model, talks, tmp_path / "out", template="alpaca")


def test_the_command_refuses_a_bad_turn_in_one_line(chat_model, talks, harness):
    file = talks.with_suffix(".jsonl")
    file.write_text(file.read_text(encoding="utf-8").replace('"user"', '"usr"', 1), "utf-8")
    args = ["--model", "hf", "--model_args", f"pretrained={chat_model}", "--output_path", "out"]
    done = harness("run", *args, "--tasks", talks)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "talks.jsonl:1: messages[0].role is 'usr', expected" in done.stderr
