"""What a request for states says, and the files that answer it."""

import pytest
import torch
from safetensors.torch import save_file

from distillens_plugin.vllm_states.exchange import (
    Asked,
    asked,
    digest,
    digest_of_all,
    take_states,
    write_states,
)
from distillens_plugin.vllm_states.flags import check_flags, overrides
from eval_harness.errors import DistillensError

NAME = "0123456789abcdef-7"


def test_a_request_names_its_file_and_positions():
    assert asked({"name": NAME, "positions": [0, 3]}, num_tokens=4) == Asked(NAME, [0, 3])


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (None, "kv_transfer_params: {"),
        ({"name": "../../etc/passwd", "positions": [0]}, "hexadecimal"),
        ({"name": NAME + "/..", "positions": [0]}, "hexadecimal"),
        ({"name": NAME, "positions": []}, "at least one"),
        ({"name": NAME, "positions": [True]}, "integers"),
        ({"name": NAME, "positions": [2, 1]}, "ascending"),
        ({"name": NAME, "positions": [1, 1]}, "none of them twice"),
        ({"name": NAME, "positions": [1, 4]}, "found 4, expected 0 to 3"),
        ({"name": NAME, "positions": [-1, 2]}, "found -1, expected 0 to 3"),
    ],
)
def test_a_bad_request_is_answered_by_what_is_wrong(params, expected):
    found = asked(params, num_tokens=4)
    assert isinstance(found, str)
    assert expected in found
    assert "\n" not in found


def test_states_are_taken_once(tmp_path):
    states = torch.randn(5, 3, 8)
    assert take_states(tmp_path, NAME) is None
    write_states(tmp_path, NAME, states[:, [0, 2]])
    assert torch.equal(take_states(tmp_path, NAME), states[:, [0, 2]])
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_is_told_to_the_reader(tmp_path):
    (tmp_path / f"{NAME}.safetensors").mkdir()  # nothing can take its place
    (tmp_path / f"{NAME}.safetensors" / "x").touch()
    write_states(tmp_path, NAME, torch.zeros(1, 1, 2))
    with pytest.raises(OSError, match="Error"):
        take_states(tmp_path, NAME)
    assert not (tmp_path / f"{NAME}.partial").exists()


def test_the_digest_knows_one_checkpoint_from_another(tmp_path):
    def model(name, content):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(content)
        return folder

    content = bytes(range(256)) * 4096
    same, also = model("a", content), model("b", content)
    assert digest(same) == digest(also)
    assert digest(model("longer", content + b"x")) != digest(same)
    assert digest(model("begins", b"x" + content[1:])) != digest(same)
    (also / "config.json").write_text('{"a": 1}', encoding="utf-8")
    assert digest(also) != digest(same)


def test_the_digest_is_of_what_a_model_is_loaded_from(tmp_path):
    def model(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
        save_file({"weight": torch.arange(9.0)}, tmp_path / name / "model.safetensors")
        return tmp_path / name

    served, trained = model("served"), model("trained")
    (trained / "training_args.bin").write_bytes(b"settings")
    save_file({"step": torch.zeros(1)}, trained / "optimizer.safetensors")
    assert digest(trained) == digest(served)
    # Older versions gave the same where there is nothing else.
    assert digest_of_all(served) == digest(served) != digest_of_all(trained)
    save_file({"weight": torch.arange(9.0) + 1}, trained / "model.safetensors")
    assert digest(trained) != digest(served)


@pytest.mark.parametrize(
    "flag", ["-pp=2", "--pipeline-parallel-size", "--speculative_config", "--enable-lora"]
)
def test_flags_that_states_come_through_are_refused(flag):
    with pytest.raises(DistillensError, match="cannot be given here"):
        check_flags(["--dtype", "float32", flag])
    check_flags(["--dtype", "float32", "--tensor-parallel-size", "2"])


def test_overrides_are_found_however_they_are_typed():
    assert overrides(["--dtype", "float32"]) == {}
    assert overrides(["--hf-overrides", '{"a": 1}', "--seed", "0"]) == {"a": 1}
    assert overrides(['--hf_overrides={"a": 1}']) == {"a": 1}
    with pytest.raises(DistillensError, match="expected a JSON object"):
        overrides(["--hf-overrides", "[1]"])
