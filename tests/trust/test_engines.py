"""vLLM's engine arguments that can run code need trust."""

import pytest
from hostile_code import evaluate, refused

import eval_harness.cli
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import (
    MODEL_FLAG,
    check_model_args,
)

DANGEROUS = {
    "hf_overrides": {"auto_map": {"AutoConfig": "own.Config"}},
    "worker_cls": "own.Worker",
    "worker_extension_cls": "own.Extension",
    "scheduler_cls": "own.Scheduler",
    "distributed_executor_backend": "own.Executor",
    "logits_processors": ["own:Processor"],
    "kv_transfer_config": {"kv_connector_module_path": "own"},
    "kv_connector_module_path": "own",
    "ec_transfer_config": {"ec_connector_module_path": "own"},
    "kv_events_config": {"publisher": "zmq"},
    "speculative_config": {"model": "evil/model"},
    "spec_model": "evil/model",
    "compilation_config": {"inductor_passes": {"x": "own.pass"}},
    "additional_config": {"x": 1},
    "model_class_overrides": {"GPT2LMHeadModel": "own:Model"},
    "model_impl": "own",
    "load_format": "own_plugin",
    "model_loader_extra_config": {"x": 1},
    "tokenizer_mode": "own",
    "config_format": "own",
    "hf_config_path": "evil/model",
    "generation_config": "evil/model",
    "code_revision": "main",
    "io_processor_plugin": "own",
    "reasoning_parser_plugin": "own.py",
    "log_config_file": "own.json",
    "logging_config": {"x": 1},
    "profiler_config": {"x": 1},
    "plugins": ["own"],
    "master_addr": "evil",
    "data_parallel_address": "evil",
    "download_dir": "/",
    "otlp_traces_endpoint": "http://evil",
    "served_by_a_later_version": 1,
    "quantization": {"nested": 1},
    "dtype": ["x"],
}


@pytest.mark.parametrize("key", DANGEROUS)
def test_engine_arguments_that_can_run_code_need_trust(key):
    given = {"pretrained": "x", key: DANGEROUS[key]}
    with pytest.raises(DistillensError, match=f"--model_args {key}: .*{MODEL_FLAG}"):
        check_model_args("vllm", given, trusted=False, where="--model_args", flag=MODEL_FLAG)
    check_model_args("vllm", given, trusted=True, where="--model_args", flag=MODEL_FLAG)


def test_engine_arguments_that_cannot_run_code_need_none():
    given = {
        **{"pretrained": "a,b", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5},
        **{"enforce_eager": True, "dtype": "bfloat16", "distributed_executor_backend": "mp"},
        **{"load_format": "auto", "add_bos_token": True, "trust_remote_code": False},
    }
    check_model_args("vllm", given, trusted=False, where="--model_args", flag=MODEL_FLAG)


def test_the_command_asks_before_it_looks_for_vllm(tmp_path, marker):
    arguments = evaluate("gpt2", args=",worker_cls=own.Worker")
    arguments[arguments.index("hf")] = "vllm"
    assert MODEL_FLAG in refused(eval_harness.cli.main, *arguments)
