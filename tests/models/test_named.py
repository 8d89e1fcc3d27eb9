"""What a command line names: a model, or an adapter's folder with the base that it names."""

import json

import pytest

from distillens_plugin.models.named import model_spec
from eval_harness.errors import DistillensError


def adapter(folder, **fields):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **fields}))
    return str(folder)


def test_an_adapters_folder_is_the_adapter_of_its_base_at_its_revision(tmp_path):
    folder = adapter(tmp_path / "a", base_model_name_or_path="org/base", revision="v1")
    spec = model_spec(folder, dtype="bfloat16")
    assert (spec.name_or_path, spec.adapter, spec.dtype) == ("org/base", folder, "bfloat16")
    assert spec.revision == "v1"
    assert model_spec(folder, revision="v2").revision == "v2"
    assert not spec.trust_remote_code


def test_anything_else_is_a_model(tmp_path):
    merged = adapter(tmp_path / "merged", base_model_name_or_path="org/base")
    (tmp_path / "merged" / "config.json").write_text("{}")
    for name in ("org/model", str(tmp_path), merged):
        spec = model_spec(name, revision="v1")
        assert (spec.name_or_path, spec.adapter, spec.revision) == (name, None, "v1")


@pytest.mark.parametrize("base", [None, "", 3])
def test_an_adapter_that_names_no_base_is_refused(tmp_path, base):
    folder = adapter(tmp_path / "a", base_model_name_or_path=base)
    with pytest.raises(DistillensError, match=r"adapter_config\.json: base_model_name_or_path = "):
        model_spec(folder)
