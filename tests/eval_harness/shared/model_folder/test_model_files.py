"""What is known of a model before its weights are loaded."""

import json
import shutil

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import files_digest, read_model


@pytest.fixture
def copy(small_llama, tmp_path):
    return shutil.copytree(small_llama, tmp_path / "model")


def test_facts(small_llama):
    facts = read_model(str(small_llama))
    assert (facts.max_length, facts.stop_token_ids, facts.checkpoint_dtype) == (
        512,
        (0,),
        "float32",
    )
    assert facts.tokenizer.pad_token_id is not None


def test_the_digest_follows_every_byte_of_the_weights(copy):
    before = files_digest(copy)
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert files_digest(copy) != before


def test_the_digest_is_of_contents_not_of_places_or_times(copy, small_llama):
    (copy / "notes.md").write_text("not read by any backend")
    assert files_digest(copy) == files_digest(small_llama)


def test_end_tokens_of_the_generation_config_count(copy):
    path = copy / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [0, 7]}))
    assert read_model(str(copy)).stop_token_ids == (0, 7)


def test_the_user_s_limit_may_only_be_lower(small_llama):
    assert read_model(str(small_llama), max_length=100).max_length == 100
    with pytest.raises(DistillensError, match=r"max_length = 513, but .* has 512 positions"):
        read_model(str(small_llama), max_length=513)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_is_not_asked_of_the_hub(name):
    with pytest.raises(DistillensError, match="no such folder, expected a model folder"):
        read_model(name)


def test_a_hub_name_that_cannot_be_had_says_so():
    with pytest.raises(DistillensError, match=r"no-one/nothing: .*cannot be downloaded"):
        read_model("no-one/nothing")


def test_a_folder_has_no_revision(small_llama):
    with pytest.raises(DistillensError, match=r"revision=0010: .* is a folder here, which has no"):
        read_model(str(small_llama), revision="0010")


def test_a_tokenizer_s_weights_are_not_read(copy, small_llama, small_gpt2):
    def identity(tokenizer):
        return read_model(str(small_llama), tokenizer=str(tokenizer)).identity

    before = identity(copy)
    shutil.copy(small_gpt2 / "model.safetensors", copy)
    assert identity(copy) == before
    (copy / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    assert identity(copy) != before
    # As in earlier versions, whose answers are kept.
    own = identity(f"{small_llama}/../{small_llama.name}")
    assert own["tokenizer"] == own["files"] == files_digest(small_llama)


def test_a_tokenizer_s_weights_are_not_downloaded(small_llama, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, ignore_patterns):
        asked.append((name, "*.safetensors" in ignore_patterns, "*.bin" in ignore_patterns))
        return str(small_llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    read_model("somebody/model", tokenizer="somebody/teacher")
    assert asked == [("somebody/model", False, True), ("somebody/teacher", True, True)]


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(DistillensError, match=r"no config\.json"):
        read_model(str(tmp_path))


def test_a_folder_without_an_adapter_is_refused(small_llama, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DistillensError, match=r"no adapter_config\.json"):
        read_model(str(small_llama), adapter=str(tmp_path))


def test_a_broken_configuration_is_named(copy):
    (copy / "config.json").write_text("{}")
    with pytest.raises(DistillensError, match=r"config\.json: model_type = None"):
        read_model(str(copy))
