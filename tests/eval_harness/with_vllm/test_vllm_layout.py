"""vLLM over GPUs and machines: what is passed on, what is refused, and two processes for real."""

import importlib.util
import json

import pytest

from eval_harness import evaluate
from eval_harness.backends.vllm_layout import check_devices, check_layout
from eval_harness.errors import DistillensError
from eval_harness.results.folder import load_results

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tensor_parallel_size": 2}, {"world_size": 2, "data_parallel_size": 1}),
        (
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            {"world_size": 4, "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        ),
        (
            {"data_parallel_size": 8},
            {"world_size": 1, "data_parallel_size": 8, "data_parallel_size_local": 8},
        ),
        (
            {
                "tensor_parallel_size": 2,
                "pipeline_parallel_size": 2,
                "distributed_executor_backend": "ray",
            },
            {"world_size": 4, "distributed_executor_backend": "ray"},
        ),
        (
            {
                "tensor_parallel_size": 2,
                "data_parallel_size": 16,
                "data_parallel_size_local": 4,
                "data_parallel_backend": "ray",
            },
            {
                "world_size": 2,
                "data_parallel_size": 16,
                "data_parallel_size_local": 4,
                "data_parallel_backend": "ray",
                "distributed_executor_backend": "ray",
                "data_parallel_external_lb": False,
            },
        ),
    ],
)
def test_the_layout_is_that_of_vllms_own_configuration(small_llama, given, expected):
    from eval_harness.backends.vllm_arguments import cpu_settings, engine_config

    if "ray" in given.values():
        pytest.importorskip("ray", reason="Ray is not installed beside this vLLM")
    check_layout(given)
    settings = {**cpu_settings(), "dtype": "float32", **given}
    parallel = engine_config(small_llama, settings, max_length=256).parallel_config
    assert {key: getattr(parallel, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pipeline_parallel_size": True}, "pipeline_parallel_size = True, expected an integer"),
        ({"data_parallel_size": "2"}, "data_parallel_size = '2', expected an integer"),
        ({"nnodes": 2}, "nnodes: one process starts all engines.*distributed_executor_backend=ray"),
        ({"data_parallel_rank": 0}, "data_parallel_rank: one process starts all engines"),
        ({"data_parallel_backend": "gloo"}, "data_parallel_backend = 'gloo', expected mp or ray"),
        ({"distributed_executor_backend": "external_launcher"}, "engines are started from here"),
        (
            {
                "distributed_executor_backend": "uni",
                "tensor_parallel_size": 2,
                "data_parallel_size": 2,
            },
            "uni is one process for each engine, but each needs 2",
        ),
        ({"data_parallel_backend": "ray"}, "data_parallel_size is 1; give data_parallel_size=N"),
        (
            {"data_parallel_size": 4, "data_parallel_size_local": 2},
            "the other engines are on other machines.*data_parallel_backend=ray",
        ),
    ],
)
def test_layouts_that_cannot_work_are_refused(given, message):
    from eval_harness.backends.vllm_arguments import checked_arguments

    with pytest.raises(DistillensError, match=message):
        checked_arguments(given)


def test_more_gpus_than_there_are_are_refused_by_number():
    given = {"tensor_parallel_size": 4, "data_parallel_size": 2}
    with pytest.raises(DistillensError, match="=4,data_parallel_size=2 needs 8 GPUs, but there a"):
        check_devices(given, num_devices=4, has_gpus=True)
    check_devices(given, num_devices=8, has_gpus=True)
    check_devices(given, num_devices=None, has_gpus=False)


@pytest.mark.parametrize("key", ["distributed_executor_backend", "data_parallel_backend"])
def test_ray_must_be_installed_and_needs_gpus(key):
    found = importlib.util.find_spec("ray") is not None
    message = "needs GPUs, and this vLLM runs on the CPU" if found else "pip install ray"
    with pytest.raises(DistillensError, match=message):
        check_devices({key: "ray", "data_parallel_size": 2}, num_devices=None, has_gpus=False)


def test_pipelines_need_gpus():
    from eval_harness.backends.vllm_arguments import checked_arguments

    with pytest.raises(DistillensError, match="vLLM fails with it on a CPU"):
        checked_arguments({"pipeline_parallel_size": 2})


def test_heads_that_cannot_be_divided_are_refused_before_anything_is_loaded(small_llama):
    from eval_harness.generation.engine import choose_engine

    given = {"pretrained": str(small_llama), "tensor_parallel_size": 3}
    with pytest.raises(DistillensError, match=r"has 2 attention heads; expected one of 1, 2$"):
        choose_engine("vllm", given)


def test_a_layout_is_no_part_of_the_fingerprint(small_llama):
    from eval_harness.generation.engine import choose_engine

    given = {"pretrained": str(small_llama), "dtype": "float32"}
    plain = choose_engine("vllm", given)
    two = choose_engine("vllm", {**given, "tensor_parallel_size": 2, "data_parallel_backend": "mp"})
    assert two.identity == plain.identity


def test_two_processes_give_the_answers_of_transformers(
    harness, small_llama, small_benchmark, tmp_path
):
    common = {"protocol": "greedy", "gen_kwargs": {"max_gen_toks": 8}, "limit": 8}
    one = evaluate(
        small_llama,
        "small",
        include_path=small_benchmark,
        output_path=tmp_path / "hf",
        model_args={"dtype": "float32"},
        device="cpu",
        **common,
    )
    arguments = {"pretrained": str(small_llama), "dtype": "float32", "tensor_parallel_size": 2}
    arguments |= {"kv_cache_memory_bytes": 2**26, "enforce_eager": True}
    command = ["--model", "vllm", "--model_args", json.dumps(arguments), "--tasks", "small"]
    command += ["--include_path", small_benchmark, "--output_path", tmp_path / "vllm"]
    command += ["--protocol", "greedy", "--gen_kwargs", "max_gen_toks=8", "--limit", "8"]
    # vLLM would give each process cores of its own, which a small machine lacks.
    done = harness("run", *command, VLLM_CPU_OMP_THREADS_BIND="nobind")
    assert done.returncode == 0, done.stderr[-3000:]
    two = load_results(tmp_path / "vllm")
    texts = [[sample.resps for sample in run.tasks["small"].samples] for run in (one, two)]
    assert texts[0] == texts[1]
