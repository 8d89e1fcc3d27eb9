"""Conversations become training rows: what has labels, what is cut or dropped, what is refused."""

import csv
import json
from itertools import islice

import pytest
from chat_tokenizers import chat_tokenizer
from datasets import Dataset

from distillens_plugin.data.collate import collate
from distillens_plugin.data.examples import load_examples
from distillens_plugin.data.rows import read_rows
from distillens_plugin.data.streaming import StreamedDataset
from distillens_plugin.recipe.schema.data import DatasetSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import write_jsonl

WHERE = "r.yaml: datasets.train"
SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer("chatml")


@pytest.fixture
def load(tmp_path, tokenizer):
    """Writes rows to a file and loads them."""

    def loaded(*rows: dict, tok=tokenizer, **options):
        path = tmp_path / "rows.jsonl"
        write_jsonl(path, rows)
        spec = DatasetSpec(**{"path": str(path), "template": "chat", **options})
        return load_examples(spec, tok, where=WHERE)

    return loaded


def labelled(data, tokenizer, index=0):
    """The text that has labels, one entry a stretch."""
    item = data[index]
    texts, open_ = [], False
    for token, label in zip(item["input_ids"], item["labels"], strict=True):
        assert label in (-100, token)
        if label != -100:
            texts = [*texts, ""] if not open_ else texts
            texts[-1] += tokenizer.decode([token])
        open_ = label != -100
    return texts


def test_every_answer_has_labels_or_the_last_one(load, tokenizer):
    row = {"messages": [SYSTEM, *TURNS], "id": "a-7"}
    data = load(row)
    assert labelled(data, tokenizer) == ["Hello there<|im_end|>", "See you<|im_end|>"]
    assert (data.rows[0].id, data.rows[0].references) == ("a-7", ["Hello there"])
    assert tokenizer.decode(data.rows[0].prompt_ids).endswith(
        "Hi<|im_end|>\n<|im_start|>assistant\n"
    )
    last = load(row, supervise="last_turn")
    assert labelled(last, tokenizer) == ["See you<|im_end|>"]
    assert last.rows[0].references == ["See you"]
    assert tokenizer.decode(last.rows[0].prompt_ids).endswith(
        "Bye<|im_end|>\n<|im_start|>assistant\n"
    )
    for each in (data, last):
        item = each[0]
        assert each.lengths[0] == len(item["input_ids"])
        count = sum(label != -100 for label in item["labels"])
        assert each.counts.supervised_tokens == count
        assert collate([item])[1]["positions"].numel() == count
    assert load(row, loss_on_prompt=True).counts.supervised_tokens == data.lengths[0] - 1


def test_sharegpt_s_form_is_the_same_row(load, tokenizer):
    said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]
    theirs = load({"conversations": said, "system": "Be kind."})
    ours = load({"messages": [SYSTEM, *TURNS[:2]]})
    assert theirs[0]["input_ids"] == ours[0]["input_ids"]
    assert theirs[0]["labels"] == ours[0]["labels"]


def test_files_of_other_kinds_hold_the_same_rows(load, tmp_path):
    prints_calls = chat_tokenizer("qwen2_5")
    expected = load({"messages": [SYSTEM, *TURNS]}, tok=prints_calls)[0]
    table = Dataset.from_list([{"messages": [SYSTEM, *TURNS]}])
    table.to_parquet(tmp_path / "rows.parquet")
    # Arrow gives every message the keys of all others.
    call = {"role": "assistant", "content": "x", "tool_calls": [{"name": "f", "arguments": "{}"}]}
    Dataset.from_list([{"messages": [SYSTEM, *TURNS]}, {"messages": [TURNS[0], call]}]).to_parquet(
        tmp_path / "filled.parquet"
    )
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["messages"], [json.dumps([SYSTEM, *TURNS])]])
    for name in ("rows.parquet", "rows.csv", "filled.parquet"):
        found = load(tok=prints_calls, path=str(tmp_path / name))[0]
        assert found["input_ids"] == expected["input_ids"], name
        assert found["labels"] == expected["labels"], name


def test_a_stream_of_conversations_gives_the_same_rows(tmp_path, load, tokenizer):
    rows = [
        {"messages": TURNS},
        {"messages": [SYSTEM, *TURNS]},
        {"instruction": "a", "output": "b"},
    ]
    whole = load(*rows)
    spec = DatasetSpec(**{**whole.spec.model_dump(), "streaming": True, "shuffle_buffer": 0})
    stream = StreamedDataset(spec, tokenizer, where=WHERE, seed=1)
    assert list(islice(stream.examples(), 3)) == [whole[index] for index in range(3)]


def test_one_question_is_the_row_that_instruction_and_output_make(load):
    data = load({"messages": TURNS[:2]}, {"instruction": "Hi", "output": "Hello there"})
    assert data[0]["input_ids"] == data[1]["input_ids"]
    assert data[0]["labels"] == data[1]["labels"]
    assert data.rows[0].prompt_ids == data.rows[1].prompt_ids


def test_thoughts_are_the_same_tokens_in_an_output_and_in_a_turn(load):
    tokenizer = chat_tokenizer("qwen3")
    answer = "<think>\nhm\n</think>\n\nyo<|im_end|>"
    turns = [TURNS[0], {"role": "assistant", "content": answer}]
    data = load({"messages": turns}, {"instruction": "Hi", "output": answer}, tok=tokenizer)
    assert data[0]["input_ids"] == data[1]["input_ids"]
    assert data[0]["labels"] == data[1]["labels"]
    think, end = tokenizer.convert_tokens_to_ids(["<think>", "<|im_end|>"])
    assert [data[1]["labels"].count(index) for index in (think, end)] == [1, 1]


@pytest.mark.parametrize(
    ("name", "output", "turn"),
    [
        ("llama3", " Hello \n<|eot_id|>", "Hello<|eot_id|>"),
        ("qwen3", " Hello \n<|im_end|>", "<think>\n\n</think>\n\n Hello \n<|im_end|>"),
    ],
)
def test_an_output_is_learnt_as_written_and_a_turn_as_the_template_prints_it(
    load, name, output, turn
):
    tokenizer = chat_tokenizer(name)
    said = {"role": "assistant", "content": " Hello \n"}
    rows = {"instruction": "Hi", "output": " Hello \n"}, {"messages": [TURNS[0], said]}
    data = load(*rows, tok=tokenizer)
    assert [labelled(data, tokenizer, index) for index in (0, 1)] == [[output], [turn]]
    assert data.rows[0].prompt_ids == data.rows[1].prompt_ids


def test_an_output_answers_the_messages(load, tokenizer):
    data = load({"messages": TURNS[:3], "output": ["See you", "Ciao"]}, supervise="last_turn")
    assert labelled(data, tokenizer) == ["See you<|im_end|>"]
    assert data.rows[0].references == ["See you", "Ciao"]
    whole = load({"messages": TURNS}, supervise="last_turn")
    assert data[0]["input_ids"] == whole[0]["input_ids"]


def test_rows_keep_their_order_beside_other_rows(load):
    plain = {"instruction": "Hi", "output": "yo"}
    rows = [plain, {"messages": TURNS}, plain, {"messages": TURNS[:2]}]
    data = load(*[{**row, "id": str(number)} for number, row in enumerate(rows)])
    assert [row.id for row in data.rows] == ["0", "1", "2", "3"]
    assert [len(row.learnt or ()) for row in data.rows] == [0, 2, 0, 1]


def test_rows_without_an_answer_are_dropped_and_counted(load):
    silent = {"messages": [TURNS[0], {"role": "assistant", "content": " "}]}
    greeting = {"messages": [TURNS[1], TURNS[0]]}
    data = load(silent, {"messages": TURNS[:1]}, greeting, {"messages": TURNS})
    assert (data.counts.read, data.counts.empty, data.counts.kept) == (4, 3, 1)
    with pytest.raises(DistillensError, match="nothing is supervised"):
        load(silent)


def test_a_row_that_is_too_long_loses_its_end_and_keeps_its_mask(load, tokenizer):
    row = {"messages": TURNS}
    whole = load(row)
    start, end = whole.rows[0].learnt[1]
    for max_length in range(start - 20, end):
        data = load(row, max_length=max_length, max_prompt_length=30)
        item = data[0]
        # A question whose answer is gone is left out too.
        length = max_length if max_length > start else whole.rows[0].learnt[0][1]
        assert item["input_ids"] == whole[0]["input_ids"][:length]
        assert item["labels"] == whole[0]["labels"][:length]
        assert item["labels"][-1] != -100
        assert data.counts.truncated_responses == 1


# Thoughts are printed before what the template marks, and of a call it marks nothing.
LATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}<|im_end|>{% else %}<think>\n\n</think>\n\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% endif %}{% else %}"
    "{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_row_of_which_nothing_learnt_is_left_is_dropped_and_counted(load):
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = LATE
    row = {"messages": TURNS}
    whole = load(row, tok=tokenizer).rows[0]
    prompt, (first, _) = len(whole.prompt_ids), whole.learnt[0]
    assert labelled(load(row, tok=tokenizer), tokenizer)[0] == "Hello there<|im_end|>"
    assert prompt + 1 < first
    for long_prompts in ("drop", "cut"):
        limits = {"max_prompt_length": prompt, "long_prompts": long_prompts, "tok": tokenizer}
        # A shorter row, so that not all are dropped.
        short = {"messages": [{**TURNS[0], "content": ""}, TURNS[1]]}
        data = load(row, short, max_length=first, **limits)
        assert (data.counts.read, data.counts.kept, data.counts.dropped_long_prompts) == (2, 1, 1)
        assert load(row, max_length=first + 1, **limits).rows[0].learnt == ((first, first + 1),)


def test_a_call_that_the_template_does_not_mark_belongs_to_the_prompt(load):
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = LATE
    call = {"function": {"name": "f", "arguments": {}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    row = {"messages": [TURNS[0], calling, {"role": "tool", "content": "word " * 20}, *TURNS[1:]]}
    (found,) = load(row, tok=tokenizer).rows
    asked = tokenizer.decode(found.prompt_ids)
    assert asked.endswith("word <|im_end|><|im_start|>assistant\n")
    assert found.references == ["Hello there"]
    limits = {"max_prompt_length": 150, "max_length": 400, "tok": tokenizer}
    assert load(row, {"messages": TURNS}, **limits).counts.dropped_long_prompts == 1
    data = load(row, long_prompts="cut", **limits)
    assert len(data.rows[0].prompt_ids) == 150
    assert data.rows[0].references == ["Hello there"]
    assert labelled(data, tokenizer) == ["Hello there<|im_end|>", "See you<|im_end|>"]


def test_a_prompt_that_is_too_long_is_dropped_or_loses_its_oldest_turns(load, tokenizer):
    row = {"messages": [SYSTEM, *TURNS]}
    limits = {"max_prompt_length": 60, "supervise": "last_turn"}
    assert load(row, {"messages": TURNS[2:]}, **limits).counts.dropped_long_prompts == 1
    data = load(row, long_prompts="cut", **limits)
    assert data.counts.cut == 1
    without = load({"messages": [SYSTEM, *TURNS[2:]]}, supervise="last_turn")
    assert data[0]["input_ids"] == without[0]["input_ids"]
    assert data[0]["labels"] == without[0]["labels"]


def test_a_long_question_loses_its_end_and_its_answers_stay(load, tokenizer):
    long = {"role": "user", "content": "word " * 200}
    data = load({"messages": [long, *TURNS[1:]]}, long_prompts="cut", max_prompt_length=60)
    assert len(data.rows[0].prompt_ids) == 60
    assert labelled(data, tokenizer) == ["Hello there<|im_end|>", "See you<|im_end|>"]


def test_a_template_whose_turns_end_in_words_gets_the_end_token_once(load):
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    data = load({"messages": TURNS}, tok=tokenizer)
    # The template itself decides how a turn within the conversation ends.
    assert labelled(data, tokenizer) == ["Hello there\n", "See you<|endoftext|>"]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"messages": TURNS}, {"template": "alpaca"}, "r.yaml: datasets.train.template: "),
        ({"messages": "Hi"}, {}, "rows.jsonl:1: messages is a text"),
        ({"messages": [{"role": "usr", "content": ""}]}, {}, "rows.jsonl:1: messages[0].role"),
        ({"messages": TURNS, "output": "x"}, {}, "rows.jsonl:1: the last of the messages is an"),
        ({"messages": TURNS, "output": 3}, {}, "rows.jsonl:1: output is 3, expected a text"),
        ({"question": "Hi"}, {}, "rows.jsonl:1: found the keys question; expected instruction"),
    ],
)
def test_bad_rows_are_refused_in_one_line(load, row, options, message):
    with pytest.raises(DistillensError) as caught:
        load(row, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_cannot_tell_the_turns_apart_names_row_and_turn(load):
    with pytest.raises(DistillensError) as caught:
        load({"messages": TURNS, "id": "a-7"}, tok=chat_tokenizer("qwen3"))
    assert "row 'a-7': messages[1]: the chat template prints this turn in another way" in str(
        caught.value
    )


def test_which_turns_are_supervised_is_not_asked_where_all_tokens_are():
    with pytest.raises(ValueError, match="loss_on_prompt supervises every token"):
        DatasetSpec(path="x.jsonl", supervise="last_turn", loss_on_prompt=True)


def test_the_rows_that_are_read_hold_the_conversation_up_to_its_last_answer(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"messages": [*TURNS, {"role": "user", "content": "Still there?"}]}])
    (raw,) = read_rows(DatasetSpec(path=str(path), template="chat"), where=WHERE)
    assert [message.content for message in raw.conversation.messages][-1] == "See you"
    assert (raw.instruction, raw.prompt, raw.id) == (None, None, "line 1")
