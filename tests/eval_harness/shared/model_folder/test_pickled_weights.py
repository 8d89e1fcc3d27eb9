"""Weights in .bin files: loaded as numbers alone, and damaged ones refused by name."""

from pathlib import Path

import pytest
import torch
from spoilt_files import edit
from transformers import AutoModelForCausalLM

from eval_harness.backends.transformers import TransformersBackend
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import read_model


def test_a_pickle_is_loaded_as_weights_alone(folder):
    """A .bin file may hold code; torch's loader of weights refuses it."""

    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (folder / "harmed",))

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    TransformersBackend(read_model(str(folder)), device="cpu")
    torch.save({"lm_head.weight": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(DistillensError, match="holds more than numbers") as caught:
        read_model(str(folder))
    assert "\n" not in str(caught.value)
    assert not (folder / "harmed").exists()


def write_pickle(folder: Path, *, as_zip: bool) -> Path:
    path = folder / "pytorch_model.bin"
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=as_zip)
    return path


@pytest.mark.parametrize("as_zip", [True, False])
def test_damaged_pickles_are_refused_by_name_before_the_run(folder, as_zip):
    path = write_pickle(folder, as_zip=as_zip)
    whole = path.read_bytes()
    TransformersBackend(read_model(str(folder)), device="cpu")
    pickled = whole.index(b"model.norm.weight")
    for content in (
        whole[: len(whole) // 2],
        whole[:-1000],
        whole[:200],
        whole[:4] + b"\0" * 3000,
        whole[:pickled] + b"\xff" * 40 + whole[pickled + 40 :],
    ):
        path.write_bytes(content)
        with pytest.raises(DistillensError, match="the weights cannot be read") as caught:
            read_model(str(folder))
        assert caught.value.exit_code == 2
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    torch.save([1, 2], path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(DistillensError, match="found a list, expected tensors by name"):
        read_model(str(folder))


@pytest.mark.parametrize("as_zip", [True, False])
def test_shapes_in_a_pickle_are_compared_too(folder, as_zip):
    path = write_pickle(folder, as_zip=as_zip)
    edit(folder / "config.json", hidden_size=128)
    with pytest.raises(DistillensError, match=r"pytorch_model\.bin: \S+ has shape \[.*expected"):
        read_model(str(folder))
    assert path.exists()
