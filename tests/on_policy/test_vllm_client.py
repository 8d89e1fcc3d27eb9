"""On-policy answers from a real vLLM server, in an environment of its own (.ci/make_vllm_env)."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
import torch
from run_process import TWO_PROCESSES, distillens
from tiny_run import tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.on_policy.vllm_client import VllmClient
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError, RunFailure

MAX_LENGTH = 256
STUDENT = "models.student_model.init.config"
# The CPU build's attention takes heads of 32; its head keeps old weights where it is tied.
CHANGES = [f"{STUDENT}.n_embd=64", f"{STUDENT}.tie_word_embeddings=false", "log_every=1"]
# More ids than the tokenizer has: padding that must not be sampled.
CHANGES += [f"{STUDENT}.vocab_size=2304"]
# Nothing of this may change an answer.
HOSTILE = {
    "do_sample": True,
    "temperature": 3.0,
    "min_p": 0.9,
    "repetition_penalty": 5.0,
    "max_new_tokens": 2,
    "eos_token_id": list(range(5, 1500)),
}


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Starts servers and stops them after the module's tests.

    Returns:
        A function of (folder, *recipe changes): serves the recipe's student; gives the address.
    """
    python = os.environ.get("DISTILLENS_VLLM_PYTHON")
    if python is None:
        if os.environ.get("CI") == "true":
            pytest.fail("DISTILLENS_VLLM_PYTHON is not set, and CI must have it")
        pytest.skip("needs DISTILLENS_VLLM_PYTHON, the python of .ci/make_vllm_env's environment")
    servers = []

    def start(folder, *changes, max_length=MAX_LENGTH):
        experiment = build(folder, *changes)
        student = folder / "served"
        experiment.student.save_pretrained(student)
        experiment.tokenizer.save_pretrained(student)
        (student / "generation_config.json").write_text(json.dumps(HOSTILE), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(student)]
        command += ["--dtype", "float32", "--max-model-len", str(max_length), "--enforce-eager"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "16"]
        command += ["--no-enable-chunked-prefill", "--kv-cache-memory-bytes", str(2**26)]
        command += ["--generation-config", "vllm"]
        log = (folder / "server.log").open("w")
        server = subprocess.Popen(
            command,
            env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        servers.append((server, log))
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, (folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
            except OSError:
                time.sleep(0.5)
            else:
                return url

    yield start
    for server, log in servers:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


@pytest.fixture(scope="module")
def url(serve, tmp_path_factory):
    return serve(tmp_path_factory.mktemp("server"), *CHANGES)


def build(folder, *changes):
    recipe = load_recipe(tiny_recipe(folder), ["datasets.validation=null", *changes])
    return build_experiment(recipe, make_accelerator(recipe, None), load_data(recipe))


def on_policy(url, **server):
    settings = {"base_url": f"'{url}'", **server}
    shown = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"train.on_policy={{share: 1.0, max_new_tokens: 8, top_p: 1.0e-6, server: {{{shown}}}}}"


def greedy(experiment, prompt):
    """What is sampled where only the likeliest token fits in the nucleus."""
    ids, eos = list(prompt), experiment.tokenizer.eos_token_id
    student, num_ids = experiment.student.eval(), len(experiment.tokenizer)
    while len(ids) < len(prompt) + 8 and ids[len(prompt) :][-1:] != [eos]:
        with torch.no_grad():
            ids.append(int(student(torch.tensor([ids])).logits[0, -1, :num_ids].argmax()))
    return ids[len(prompt) :]


def shake(experiment, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in experiment.student.parameters():
            parameter.mul_(1 + 0.5 * torch.randn_like(parameter))


def test_answers_are_those_of_the_student_of_the_step(url, tmp_path):
    experiment = build(tmp_path, *CHANGES, on_policy(url, sync_every=2))
    loader = experiment.box.train_data_loader
    sampler, prompts = loader._sampler, list(loader._prompts.values())[:4]
    seen = []
    for step in range(3):
        shake(experiment, step)
        sampler.start_step(step)
        answers = sampler.sample(prompts, list("abcd"), epoch=0, max_length=MAX_LENGTH)
        seen.append((answers, [greedy(experiment, prompt) for prompt in prompts]))
    assert seen[0][0] == seen[0][1]
    # The second step keeps the weights of the first, the third brings its own.
    assert seen[1][0] == seen[0][1] != seen[1][1]
    assert seen[2][0] == seen[2][1] != seen[1][1]


def test_adapters_go_over_merged(url, tmp_path):
    """dropout is LoRA's own: it must be off in what is sent and in what is tried."""
    lora = "models.student_model.lora={r: 4, alpha: 8, dropout: 0.5}"
    experiment = build(tmp_path, *CHANGES, lora, on_policy(url))
    sampler = experiment.box.train_data_loader._sampler
    prompts = list(experiment.box.train_data_loader._prompts.values())[:4]
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in experiment.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    with experiment.student.disable_adapter():
        plain = [greedy(experiment, prompt) for prompt in prompts]
    experiment.student.train()
    sampler.start_step(0)
    answers = sampler.sample(prompts, list("abcd"), epoch=0, max_length=MAX_LENGTH)
    assert answers == [greedy(experiment, prompt) for prompt in prompts] != plain


def test_an_answer_depends_on_its_own_seed_alone(url, tmp_path):
    experiment = build(tmp_path, *CHANGES, on_policy(url))
    server = VllmClient(url, timeout_s=60)
    server.check(max_length=MAX_LENGTH)
    prompts = list(experiment.box.train_data_loader._prompts.values())[:3]
    settings = {"temperature": 1.0, "top_p": 1.0, "eos_id": experiment.tokenizer.eos_token_id}

    def sample(indices, seeds, limit=6):
        return server.sample(
            [prompts[i] for i in indices],
            seeds=seeds,
            max_new_tokens=[limit] * len(seeds),
            **settings,
        )

    first = sample([0, 1, 2], [5, 6, 2**63 - 1])
    assert sample([2, 0], [2**63 - 1, 5]) == [first[2], first[0]]
    assert sample([0], [7]) != [first[0]]
    assert all(1 <= len(answer) <= 6 for answer in first)


def test_log_probabilities_are_the_students(url, tmp_path):
    experiment = build(tmp_path, *CHANGES, on_policy(url))
    sampler = experiment.box.train_data_loader._sampler
    shake(experiment, 3)
    sampler.start_step(0)
    ids = sampler._probe_ids
    found = torch.tensor(sampler._server.log_probabilities(ids))
    with torch.no_grad():
        scores = experiment.student.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = scores[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert (found - expected).abs().max() < 1e-4


def test_ids_that_belong_to_no_token_are_not_sampled(url, tmp_path):
    experiment = build(tmp_path, *CHANGES, on_policy(url))
    loader = experiment.box.train_data_loader
    sampler, num_ids = loader._sampler, len(experiment.tokenizer)
    with torch.no_grad():  # the student would say nothing else
        experiment.student.lm_head.weight[num_ids:] *= 0
        experiment.student.transformer.ln_f.bias.fill_(1.0)
        experiment.student.lm_head.weight[num_ids:] += 0.5
    sampler.start_step(0)
    prompts = list(loader._prompts.values())[:4]
    answers = sampler.sample(prompts, list("abcd"), epoch=0, max_length=MAX_LENGTH)
    assert answers == [greedy(experiment, prompt) for prompt in prompts]
    prompt = torch.tensor([prompts[0]])
    assert int(experiment.student(prompt).logits[0, -1].argmax()) >= num_ids


def test_the_answers_end_tokens_are_those_asked_for(url, tmp_path):
    experiment = build(tmp_path, *CHANGES, on_policy(url))
    loader = experiment.box.train_data_loader
    prompt = next(iter(loader._prompts.values()))
    loader._sampler.start_step(0)
    whole = greedy(experiment, prompt)
    assert len(whole) > 2
    loader._sampler._end_ids = (whole[1],)
    (answer,) = loader._sampler.sample([prompt], ["a"], epoch=0, max_length=MAX_LENGTH)
    assert answer == whole[: whole.index(whole[1]) + 1]


@pytest.mark.parametrize("launcher", [(), TWO_PROCESSES], ids=["one process", "two processes"])
def test_a_whole_run_and_its_folder_of_weights_is_gone(url, tmp_path, launcher):
    weights = tmp_path / "weights"
    weights.mkdir()
    path = tiny_recipe(tmp_path)
    sets = [*CHANGES, on_policy(url, weights_dir=f"'{weights}'")]
    done = distillens(path, *(part for text in sets for part in ("--set", text)), launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "best" / "model.safetensors").exists()
    assert list(weights.iterdir()) == []


def test_a_server_that_keeps_a_part_of_the_old_weights_is_refused(serve, tmp_path):
    """vLLM's CPU build does not replace an unembedding that is tied to the embedding."""
    tied = [f"{STUDENT}.n_embd=64", f"{STUDENT}.tie_word_embeddings=true"]
    address = serve(tmp_path / "server", *tied)
    experiment = build(tmp_path / "run", *tied, on_policy(address))
    with pytest.raises(RunFailure, match="does not take the student's weights"):
        experiment.box.train_data_loader._sampler.start_step(0)


def test_a_server_whose_context_is_too_short_is_refused(url):
    with pytest.raises(DistillensError, match=r"--max-model-len is 256, but .* 300 tokens"):
        VllmClient(url, timeout_s=60).check(max_length=300)


@pytest.mark.parametrize("arguments", [(), ("--validate",), ("--dry-run",)], ids=str)
def test_without_a_server_the_run_ends_before_models_load_or_anything_is_written(
    tmp_path, arguments
):
    path = tiny_recipe(tmp_path)
    done = distillens(path, "--set", on_policy("http://127.0.0.1:9"), *arguments)
    assert done.returncode == 2
    last = done.stderr.strip().split("\n")[-1]
    assert "train.on_policy.server: http://127.0.0.1:9: expected a vLLM server" in last
    assert "VLLM_SERVER_DEV_MODE=1 vllm serve" in last
    assert "parameters" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_validate_asks_the_server_for_no_more_than_the_models_positions(url, tmp_path):
    """The recipe allows 4,096 tokens a row, the models and the server have 256."""
    sets = [*CHANGES, on_policy(url), "datasets.train.max_length=4096"]
    given = (part for text in sets for part in ("--set", text))
    done = distillens(tiny_recipe(tmp_path), "--validate", *given)
    assert done.returncode == 0, done.stderr
    assert f"ok train.on_policy.server: {url} takes weights" in done.stdout
