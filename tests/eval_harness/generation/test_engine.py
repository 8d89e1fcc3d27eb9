"""What a run's answers depend on, known before weights are loaded."""

import json

import pytest
import torch

from eval_harness import evaluate
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.errors import DistillensError
from eval_harness.generation.engine import choose_engine


def versions(model, *, sampled=True, **arguments):
    given = {"pretrained": str(model), "dtype": "float32", **arguments}
    return choose_engine("hf", given, sampled=sampled).versions


def test_sampled_answers_depend_on_the_kind_of_device(small_llama, monkeypatch):
    on_cpu = versions(small_llama, device="cpu")
    # Answers that are stored already were sampled on one, and stay usable.
    assert "sampled_on" not in on_cpu
    assert versions(small_llama, device="meta") == {**on_cpu, "sampled_on": "meta"}
    assert versions(small_llama, device="meta", sampled=False) == on_cpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert versions(small_llama)["sampled_on"] == "cuda"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"device_map": "auto"}, "cuda"),
        ({"parallelize": True}, "cuda"),
        ({"device_map": "auto", "max_memory": {"0": "2GiB", "cpu": "9GiB"}}, "cuda"),
        ({"device_map": "auto", "max_memory": {"cpu": "9GiB"}}, None),
        ({"device_map": {"": 0}}, "cuda"),
        ({"device_map": {"model": "disk", "lm_head": "cuda:1"}}, "cuda"),
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, None),
    ],
    ids=json.dumps,
)
def test_a_spread_model_s_answers_are_drawn_on_its_gpus(
    small_llama, monkeypatch, arguments, expected
):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    assert versions(small_llama, **arguments).get("sampled_on") == expected


def test_a_place_that_is_no_device_is_refused(small_llama):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    with pytest.raises(DistillensError, match=r"device_map = .*: gpu is no device"):
        versions(small_llama, device_map={"": "gpu"})


@pytest.mark.parametrize(("protocol", "num_files"), [("default", 2), ("greedy", 1)])
def test_only_sampled_answers_are_drawn_again_on_another_kind_of_device(
    small_gpt2, small_benchmark, tmp_path, monkeypatch, protocol, num_files
):
    def run():
        results = evaluate(
            small_gpt2,
            "small",
            include_path=small_benchmark,
            output_path=tmp_path / "out",
            protocol=protocol,
            seeds=[10],
            gen_kwargs={"max_gen_toks": 4},
            limit=2,
        )
        return results.tasks["small"].fingerprint.versions.get("sampled_on")

    assert [run(), run()] == [None, None]
    assert len(list(tmp_path.glob("out/*/answers_*.jsonl"))) == 1
    monkeypatch.setattr(TransformersBackend, "sampled_on", lambda arguments: "cuda")
    assert run() == ("cuda" if num_files == 2 else None)
    assert len(list(tmp_path.glob("out/*/answers_*.jsonl"))) == num_files
