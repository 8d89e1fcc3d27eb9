"""Rows become tokens: what is supervised, what is dropped or cut, and what is refused."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillens_plugin.data.examples import load_examples
from distillens_plugin.data.rows import read_rows
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.recipe.schema.data import DatasetSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import write_jsonl

SHORT = "Question: {instruction}\nAnswer:\n"
WHERE = "r.yaml: datasets.train"


@pytest.fixture(scope="module")
def tokenizer(repo):
    return load_tokenizer(str(repo / "recipes" / "quickstart" / "tokenizer"))


@pytest.fixture
def load(tmp_path, tokenizer):
    """Writes rows to a file and loads them."""

    def loaded(*rows: dict, tok=tokenizer, **options):
        path = tmp_path / "rows.jsonl"
        write_jsonl(path, rows)
        return load_examples(DatasetSpec(path=str(path), **options), tok, where=WHERE)

    return loaded


def row(instruction="Add 2 and 3.", output: object = "It is 5.", **more) -> dict:
    return {"instruction": instruction, "output": output, **more}


def test_the_prompt_is_masked_and_the_response_with_eos_supervised(load, tokenizer):
    item = load(row(id="a-7"), template=SHORT)[0]
    prompt = tokenizer("Question: Add 2 and 3.\nAnswer:\n", add_special_tokens=False)["input_ids"]
    response = [
        *tokenizer("It is 5.", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert item["input_ids"] == prompt + response
    assert item["labels"] == [-100] * len(prompt) + response
    assert item["id"] == "a-7"
    assert item["pad_id"] == tokenizer.pad_token_id


def test_the_alpaca_template_is_applied_with_and_without_input(load, tokenizer):
    data = load(row(), row(input="2 3"))
    texts = [tokenizer.decode(kept.prompt_ids) for kept in data.rows]
    assert texts[0].endswith("### Instruction:\nAdd 2 and 3.\n\n### Response:\n")
    assert texts[1].endswith("### Instruction:\nAdd 2 and 3.\n\n### Input:\n2 3\n\n### Response:\n")


def test_a_ready_prompt_gets_no_template_and_its_newline_marks_are_read(load, tokenizer):
    data = load({"prompt": "Say<n>it: ", "output": "a<n>b"}, newline="<n>")
    assert tokenizer.decode(data.rows[0].prompt_ids) == "Say\nit: "
    assert data.rows[0].references == ["a\nb"]


def test_an_instruction_wins_over_a_ready_prompt_and_keeps_its_text(load, tokenizer):
    data = load(row("vector<n>", prompt="ready"), template="{instruction}:")
    assert tokenizer.decode(data.rows[0].prompt_ids) == "vector<n>:"


def test_chat_uses_the_tokenizers_own_template(load, repo):
    own = load_tokenizer(str(repo / "recipes" / "quickstart" / "tokenizer"))
    own.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}> "
    )
    data = load(row(input="now"), tok=own, template="chat")
    assert own.decode(data.rows[0].prompt_ids) == "[user] Add 2 and 3.\nnow\n> "


def test_the_first_of_several_references_is_trained_on_and_all_are_kept(load, tokenizer):
    kept = load(row(output=["one", "two"])).rows[0]
    assert tokenizer.decode(kept.response_ids, skip_special_tokens=True) == "one"
    assert kept.references == ["one", "two"]


def test_long_prompts_are_dropped_and_counted(load):
    data = load(row("long " * 100), row("short"), template=SHORT, max_prompt_length=50)
    assert (data.counts.read, data.counts.kept, data.counts.dropped_long_prompts) == (2, 1, 1)
    assert len(data) == 1


def test_long_prompts_are_cut_inside_the_template(load, tokenizer):
    options = {"max_prompt_length": 50, "long_prompts": "cut"}
    data = load(row("long " * 100), row("short"), template=SHORT, **options)
    text = tokenizer.decode(data.rows[0].prompt_ids)
    assert text.startswith("Question: long long")
    assert text.endswith("\nAnswer:\n")
    assert 45 < len(data.rows[0].prompt_ids) <= 50
    assert (data.counts.kept, data.counts.cut, data.counts.dropped_long_prompts) == (2, 1, 0)


def test_a_ready_prompt_is_cut_before_its_last_line(load, tokenizer):
    ready = {"prompt": "{x} " * 200 + "\n\n### Response:\n", "output": "y"}
    data = load(ready, max_prompt_length=40, long_prompts="cut")
    text = tokenizer.decode(data.rows[0].prompt_ids)
    assert text.startswith("{x} {x}")
    assert text.endswith("\n\n### Response:\n")
    assert len(data.rows[0].prompt_ids) <= 40


def test_a_response_is_cut_at_max_length_and_counted(load, tokenizer):
    data = load(row(output="word " * 100), row(), max_length=90, max_prompt_length=80)
    assert data.lengths[0] == len(data[0]["input_ids"]) == 90
    assert data[0]["input_ids"][-1] != tokenizer.eos_token_id
    assert data[1]["input_ids"][-1] == tokenizer.eos_token_id
    assert data.counts.truncated_responses == 1


def test_a_response_that_just_fits_keeps_its_eos(load, tokenizer):
    length = load(row()).lengths[0]
    options = {"max_prompt_length": length - 1}
    assert load(row(), max_length=length, **options).counts.truncated_responses == 0
    data = load(row(), max_length=length, **options)
    assert data[0]["input_ids"][-1] == tokenizer.eos_token_id


def test_rows_with_empty_responses_are_dropped_and_counted(load):
    data = load(row(output=""), row(output=" \n"), row(output=[""]), row(output=None), row())
    assert (data.counts.empty, data.counts.kept) == (4, 1)


def test_the_first_reference_with_text_is_trained_on(load, tokenizer):
    kept = load(row(output=["", " ", "one", "two"])).rows[0]
    assert tokenizer.decode(kept.response_ids, skip_special_tokens=True) == "one"
    assert kept.references == ["one", "two"]


def test_the_prompt_can_be_supervised_too(load):
    data = load(row(), loss_on_prompt=True)
    assert data[0]["labels"] == data[0]["input_ids"]
    assert data.counts.supervised_tokens == data.lengths[0] - 1


def test_counts_of_supervised_tokens_are_those_of_the_labels(load):
    data = load(row(), row(output="a " * 600), {"prompt": "", "output": "x"})
    labels = [data[index]["labels"] for index in range(len(data))]
    assert data.counts.supervised_tokens == sum(
        label != -100 for row_labels in labels for label in row_labels[1:]
    )
    assert data.counts.tokens == sum(map(len, labels)) == sum(data.lengths)


def test_the_description_tells_all_counts(load):
    data = load(row(), row(output=""), row("a " * 300))
    line = data.describe()
    assert "\n" not in line
    assert "3 rows read, 1 kept (1 with prompts over 256 tokens and 1 with empty" in line
    assert f"{data.counts.supervised_tokens} of {data.counts.tokens} tokens supervised" in line


def test_num_rows_takes_the_first_rows(load):
    data = load(*[row(id=str(i)) for i in range(5)], num_rows=2)
    assert [kept.id for kept in data.rows] == ["0", "1"]


def test_rows_without_an_id_are_known_by_their_line(load):
    assert [kept.id for kept in load(row(), row()).rows] == ["line 1", "line 2"]


def test_unusual_text_survives_tokenising(load, tokenizer):
    text = "a\u2028b\x85c\r\n\x00🙂 \ufeff"
    kept = load(row(output=text)).rows[0]
    assert tokenizer.decode(kept.response_ids[:-1]) == text


def test_lone_surrogates_do_not_stop_the_tokenizer(load):
    assert load(row("\ud800", output="\udfff x")).rows[0].references == ["\ufffd x"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            {"question": "x", "answer": "y"},
            ":2: found the keys question, answer; expected instruct",
        ),
        ({"instruction": "x"}, ":2: found the keys instruction; expected"),
        ({"instruction": 3, "output": "y"}, ":2: instruction is 3, expected a text"),
        ({"instruction": "x", "output": 5}, ":2: output is 5, expected a text or a list"),
        ({"instruction": "x", "output": 0}, ":2: output is 0, expected a text or a list"),
        ({"instruction": "x", "output": 0.0}, ":2: output is 0.0, expected a text or a list"),
        ({"instruction": "x", "output": False}, ":2: output is False, expected a text or a list"),
        ({"instruction": "x", "output": []}, ":2: output is [], expected a text or a list"),
        ({"instruction": "x", "output": {}}, ":2: output is {}, expected a text or a list"),
        ({"instruction": "x", "output": [None]}, ":2: output is [None], expected a text or a"),
        ({"instruction": 0, "output": "y"}, ":2: instruction is 0, expected a text"),
        ({"prompt": False, "output": "y"}, ":2: prompt is False, expected a text"),
        ({"instruction": "x", "input": 0, "output": "z"}, ":2: input is 0, expected a text"),
        ({"instruction": "x", "output": ["a", 5]}, ":2: output is ['a', 5], expected"),
        (
            {"instruction": "x", "input": ["y"], "output": "z"},
            ":2: input is ['y'], expected a text",
        ),
    ],
)
def test_a_malformed_row_is_told_with_its_line(load, bad, words):
    with pytest.raises(DistillensError) as caught:
        load(row(), bad)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([row(output="")], {}, "nothing is supervised"),
        ([row("a " * 300)], {}, "nothing is supervised"),
        ([row()], {"template": "alpacca"}, f"{WHERE}.template: template 'alpacca' is not known"),
        ([row()], {"template": "chat"}, "needs a tokenizer with a chat template"),
        ([row()], {"max_prompt_length": 3, "long_prompts": "cut"}, "template alone takes"),
        ([row()], {"split": "test"}, f"{WHERE}.split: "),
    ],
)
def test_unusable_data_and_settings_are_refused(load, rows, options, words):
    with pytest.raises(DistillensError) as caught:
        load(*rows, **options)
    assert words in str(caught.value)


def test_missing_and_unknown_files_are_refused(tmp_path, tokenizer):
    (tmp_path / "rows.txt").write_text("x")
    for name, words in [
        ("none.jsonl", "none.jsonl: cannot be read: No such file"),
        ("none.parquet", "does not exist"),
        ("folder", "does not exist"),
        ("rows.txt", "ends in '.txt', expected .jsonl"),
    ]:
        with pytest.raises(DistillensError, match=words):
            load_examples(DatasetSpec(path=str(tmp_path / name)), tokenizer, where=WHERE)


def test_an_unreachable_hub_gives_one_clear_line():
    code = (
        "from distillens_plugin.data.rows import read_rows\n"
        "from distillens_plugin.recipe.schema.data import DatasetSpec\n"
        "from eval_harness.shared.program.command import run_command\n"
        "raise SystemExit(run_command(lambda: list(read_rows(DatasetSpec(path='MiniLLM/dolly'), "
        "where='r.yaml: datasets.train')) and None, program='distillens'))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "r.yaml: datasets.train.path: 'MiniLLM/dolly' (split 'train') cannot be loaded" in line
    assert "expected a .jsonl file" in line


def folder_with_splits(tmp_path: Path, rows: dict[str, list[dict]]) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for split, split_rows in rows.items():
        write_jsonl(folder / f"{split}.jsonl", split_rows)
    return folder


def test_a_folder_is_read_through_datasets(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = {"train": [row(id="t")], "validation": [row(id="v"), row(id="w")]}
    spec = DatasetSpec(path=str(folder_with_splits(tmp_path, rows)))
    ids = {
        split: [
            kept.id for kept in load_examples(spec, tokenizer, where="d", default_split=split).rows
        ]
        for split in rows
    }
    assert ids == {"train": ["t"], "validation": ["v", "w"]}
    sliced = spec.model_copy(update={"split": "validation[1:]"})
    assert [kept.id for kept in load_examples(sliced, tokenizer, where="d").rows] == ["w"]
    one_file = spec.model_copy(update={"data_files": "validation.jsonl"})
    assert [raw.id for raw in read_rows(one_file, where="d")] == ["v", "w"]
    with pytest.raises(DistillensError, match="does it have the split 'test'"):
        list(read_rows(spec.model_copy(update={"split": "test"}), where="d"))


def test_a_saved_data_set_and_a_json_array_are_read(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = datasets.Dataset.from_list([row(), row(output="a")])
    made.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "rows.json").write_text(
        json.dumps([row(id="j"), {"instruction": "x", "output": "y"}])
    )
    saved = list(read_rows(DatasetSpec(path=str(tmp_path / "saved")), where="d"))
    assert [raw.id for raw in saved] == ["row 0", "row 1"]
    array = list(read_rows(DatasetSpec(path=str(tmp_path / "rows.json")), where="d"))
    assert [raw.references for raw in array] == [["It is 5."], ["y"]]
    assert array[0].input == ""


def test_real_data_is_tokenised_in_seconds(shared):
    gpt2 = load_tokenizer(str(shared / "tokenizers" / "gpt2"))
    spec = DatasetSpec(path=str(shared / "data" / "train.jsonl"))
    started = time.process_time()
    data = load_examples(spec, gpt2, where=WHERE)
    assert time.process_time() - started < 30
    assert data.counts.read == 12000
    assert data.counts.kept + data.counts.dropped_long_prompts == 12000
    # As the reference counts: no BOS, EOS supervised.
    assert all(len(kept.prompt_ids) <= 256 for kept in data.rows)
    assert gpt2.bos_token_id not in data.rows[0].prompt_ids
    assert data.rows[0].response_ids[-1] == gpt2.eos_token_id
