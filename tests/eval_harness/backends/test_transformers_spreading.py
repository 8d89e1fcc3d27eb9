"""Models that are larger than a device: the same answers from parts in memory and on disk."""

import pytest
from transformers import AutoModelForCausalLM

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.backends.transformers_arguments import take_device
from eval_harness.backends.transformers_spreading import spreading_of
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.model_folder.identity import read_model

ON_DISK = {
    "model.embed_tokens": "disk",
    "model.layers.0": "disk",
    "model.layers.1": "cpu",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
REQUESTS = [Request(tuple(range(5, 8 + 3 * n)), n) for n in range(6)]
CONTINUATIONS = [Continuation(request.prompt_ids, (9, 7, 0)) for request in REQUESTS]


def results_of(folder, **given):
    arguments = TransformersBackend.arguments({"dtype": "float32", "batch_size": 4, **given})
    backend = TransformersBackend(read_model(str(folder)), **arguments)
    kinds = {parameter.device.type for parameter in backend.model.parameters()}
    sampling = Sampling(12, 1.0, 1.0, 0, 0)
    answers = {a.index: a.token_ids for a in backend.generate(REQUESTS, sampling)}
    found = answers, {x.index: x.total for x in backend.log_likelihoods(CONTINUATIONS)}
    backend.close()
    return found, kinds


def test_a_model_in_parts_gives_the_same_answers(small_llama, tmp_path):
    whole, _ = results_of(small_llama, device="cpu")
    folder = str(tmp_path / "offloaded")
    parts, kinds = results_of(small_llama, device_map=ON_DISK, offload_folder=folder)
    assert kinds == {"cpu", "meta"}  # what is on disk is on no device
    assert parts == whole
    small = {"cpu": "300KB"}
    parts, kinds = results_of(
        small_llama, parallelize=True, max_memory=small, offload_folder=folder
    )
    assert "meta" in kinds
    assert parts == whole


def test_an_adapter_needs_a_model_that_fits(small_llama, tmp_path):
    peft = pytest.importorskip("peft", reason="the extra `peft` is not installed")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    model = AutoModelForCausalLM.from_pretrained(small_llama)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    facts = read_model(str(small_llama), adapter=str(tmp_path))
    with pytest.raises(RunFailure, match="whose parts are on disk; merge the adapter"):
        TransformersBackend(facts, device_map=ON_DISK, offload_folder=str(tmp_path / "parts"))


def test_lm_eval_s_name_for_it():
    assert spreading_of({"parallelize": True}) == {"device_map": "auto"}
    assert spreading_of({"parallelize": False, "device": "cpu"}) == {"device": "cpu"}
    memory = spreading_of({"device_map": "auto", "max_memory": {"0": "2GiB", "cpu": "4GiB"}})
    assert memory["max_memory"] == {0: "2GiB", "cpu": "4GiB"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device_map": "cuda:0"}, "for one device give device="),
        ({"device_map": {}}, "expected auto"),
        ({"device_map": {"": True}}, "expected auto"),
        ({"device_map": "auto", "device": "cpu"}, "give one of them"),
        ({"parallelize": "yes"}, "expected true or false"),
        ({"parallelize": True, "device_map": "balanced"}, "give device_map alone"),
        ({"max_memory": {"cpu": "1GiB"}}, "max_memory needs device_map"),
        ({"device_map": "auto", "max_memory": "1GiB"}, "expected a mapping"),
        ({"device_map": "auto", "offload_folder": 7}, "expected a folder"),
    ],
)
def test_wrong_values_are_refused(given, message):
    with pytest.raises(DistillensError, match=message):
        spreading_of(given)


def test_a_launcher_starts_one_process_for_each_gpu_and_a_model_in_parts_needs_one():
    with pytest.raises(DistillensError, match="start it without a launcher"):
        take_device({"device_map": "auto"}, local_rank=0, local_size=2)
    take_device({"device": "cpu"}, local_rank=1, local_size=2)
    with pytest.raises(DistillensError, match="torch cannot use it"):
        take_device({"device": "cuda:99"}, local_rank=1, local_size=2)
