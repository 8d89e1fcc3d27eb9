"""The engine arguments that need no trust, against those of the vLLM that is installed."""

import dataclasses
import re

import pytest

from eval_harness.shared.model_folder.trust import PLAIN_ENGINE_ARGUMENTS

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]
# Texts that vLLM looks up among its own, or that trust.py holds to a few words.
_WORDS = {"distributed_executor_backend", "load_format", "model_impl", "quantization", "lora_dtype"}


def test_arguments_without_trust_hold_no_classes_and_no_settings_of_settings():
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name: field.type for field in dataclasses.fields(EngineArgs)}
    checked = {name: known[name] for name in PLAIN_ENGINE_ARGUMENTS - _WORDS if name in known}
    assert len(checked) > 25
    for name, kind in checked.items():
        # `type[...]`, configurations and mappings are what names of classes hide in.
        assert not re.search(r"type\[|Config\b|dict|Callable|Any", str(kind)), (name, kind)


def test_arguments_that_hold_classes_or_settings_need_trust():
    from vllm.engine.arg_utils import EngineArgs

    types = {field.name: str(field.type) for field in dataclasses.fields(EngineArgs)}
    deep = {name for name, kind in types.items() if re.search(r"type\[|Config\b|dict\[", kind)}
    assert {"hf_overrides", "scheduler_cls", "kv_transfer_config", "compilation_config"} <= deep
    assert not deep & (PLAIN_ENGINE_ARGUMENTS - _WORDS)
