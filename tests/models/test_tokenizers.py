"""Tokenizers load with an end and a pad token, and differing vocabularies are refused."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distillens_plugin.models.tokenizers import check_vocabularies, load_tokenizer
from eval_harness.errors import DistillensError
from eval_harness.shared.files.jsonl import read_jsonl


def words(*names: str, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, names[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=names[0])
    tokenizer.add_tokens(list(added))
    return tokenizer


def test_a_missing_pad_token_becomes_the_end_token(tmp_path):
    made = words("?", "</s>", "a")
    made.eos_token = "</s>"
    made.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id == loaded.eos_token_id == 1


def test_a_pad_token_that_is_there_stays(shared):
    qwen2 = load_tokenizer(str(shared / "tokenizers" / "qwen2"))
    assert (qwen2.pad_token, qwen2.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    words("?", "a").save_pretrained(tmp_path)
    with pytest.raises(DistillensError, match="has no eos_token"):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(DistillensError, match="cannot be loaded") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_equal_vocabularies_pass():
    assert check_vocabularies(words("?", "a", "b"), words("?", "a", "b")) == 3


def test_added_tokens_of_one_side_are_no_difference():
    assert check_vocabularies(words("?", "a", added=("<new>",)), words("?", "a")) == 2
    assert check_vocabularies(words("?", "a"), words("?", "a", added=("<new>",))) == 2


def test_the_first_ids_that_differ_are_named():
    with pytest.raises(DistillensError) as caught:
        check_vocabularies(words("?", "a", "b", "c", "d", "e"), words("?", "a", "c", "b", "e", "d"))
    assert "4 of 6 common ids differ" in str(caught.value)
    assert "the first are 2 ('b' and 'c'), 3 ('c' and 'b'), 4 ('d' and 'e');" in str(caught.value)


def test_real_tokenizers_of_two_families_are_refused(shared):
    gpt2, qwen2 = (load_tokenizer(str(shared / "tokenizers" / name)) for name in ("gpt2", "qwen2"))
    assert check_vocabularies(gpt2, gpt2) == 50257
    with pytest.raises(DistillensError, match="common ids differ, the first are 256 "):
        check_vocabularies(gpt2, qwen2)


@pytest.fixture(scope="module")
def quickstart(repo):
    return repo / "recipes" / "quickstart"


def test_the_quickstarts_tokenizer_loads_without_a_model_beside_it(quickstart, tmp_path):
    shutil.copytree(quickstart / "tokenizer", tmp_path / "copy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copy")
    config = json.loads((quickstart / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer.is_fast
    assert len(tokenizer) == tokenizer.vocab_size == 2048
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"


def test_the_quickstarts_tokenizer_gives_every_text_back(quickstart):
    tokenizer = load_tokenizer(str(quickstart / "tokenizer"))
    texts = [
        row[key]
        for _, row in read_jsonl(quickstart / "valid.jsonl")
        for key in ("instruction", "output")
    ]
    texts += [
        "",
        " ",
        "  a\n\n b\t",
        "\u2028 \x00 é🙂 中文 \ufeff",
        "3 .5 , 1,000 's n't",
        "12 345",
    ]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_the_quickstarts_numbers_are_cut_into_digits(quickstart):
    tokenizer = load_tokenizer(str(quickstart / "tokenizer"))
    ids = tokenizer("is 1234 $56", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == ["is", " 1", "2", "3", "4", " $", "5", "6"]


def test_the_quickstarts_validation_rows_are_held_out(quickstart):
    rows = {
        split: [row for _, row in read_jsonl(quickstart / f"{split}.jsonl")]
        for split in ("train", "valid")
    }
    assert (len(rows["train"]), len(rows["valid"])) == (6873, 300)
    prompts = {split: {row["instruction"] for row in rows[split]} for split in rows}
    assert not prompts["train"] & prompts["valid"]
    ids = [row["id"] for split in rows for row in rows[split]]
    assert len(set(ids)) == len(ids)


def test_the_quickstarts_tokenizer_can_be_made_again(quickstart, tmp_path):
    import runpy

    script = tmp_path / "make_tokenizer.py"
    shutil.copy(quickstart / "make_tokenizer.py", script)
    shutil.copy(quickstart / "train.jsonl", tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        made, shipped = tmp_path / "tokenizer" / name, quickstart / "tokenizer" / name
        assert json.loads(made.read_text()) == json.loads(shipped.read_text())
