"""Many systems in one vLLM engine: the answers of an engine of their own, or a refusal."""

import random
import shutil
from dataclasses import replace

import pytest
from small_systems import adapter, student

from eval_harness.backends.base import Request, Sampling
from eval_harness.benchmarks import find_benchmarks, select_benchmarks
from eval_harness.errors import RunFailure
from eval_harness.generation.evaluate import run_evaluation
from eval_harness.generation.systems import run_systems
from eval_harness.generation.task import Settings
from eval_harness.protocols.protocol import make_protocol
from eval_harness.shared.model_folder.identity import read_model

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]

GREEDY = Sampling(24, 0.0, 1.0, 0, 0)
SAMPLINGS = (GREEDY, replace(GREEDY, temperature=1.0))
MAX_LENGTH = 128


def requests():
    rng = random.Random(0)
    return [
        Request(
            tuple(rng.randrange(1, 2000) for _ in range(rng.randint(1, 90))), rng.randrange(2**63)
        )
        for _ in range(16)
    ]


def answers(backend):
    """Greedy, sampled: the tokens of each request."""
    return [
        {answer.index: answer.token_ids for answer in backend.generate(requests(), sampling)}
        for sampling in SAMPLINGS
    ]


def started(facts, engine_arguments, max_length=MAX_LENGTH):
    from eval_harness.backends.vllm import VllmBackend

    return VllmBackend(facts, max_length=max_length, engine=engine_arguments)


def fresh_answers(facts, engine_arguments):
    backend = started(facts, engine_arguments, max_length=MAX_LENGTH - 8)
    try:
        return answers(backend)
    finally:
        backend.close()


@pytest.fixture(scope="module")
def students(small_llama, tmp_path_factory):
    """Folders of three models whose weights differ everywhere."""
    folder = tmp_path_factory.mktemp("students")
    return [student(small_llama, folder / str(seed), seed) for seed in range(3)]


def test_an_engine_with_reloaded_weights_answers_as_a_fresh_one(students, engine_arguments):
    facts = [read_model(str(folder)) for folder in students]
    expected = [fresh_answers(of_one, engine_arguments) for of_one in facts]
    assert expected[0] != expected[1] != expected[2]
    backend = started(facts[0], engine_arguments)
    try:
        assert answers(backend) == expected[0]
        for place in (1, 0, 2, 0):
            backend.switch(facts[place])
            assert answers(backend) == expected[place]
    finally:
        backend.close()


def test_an_engine_that_keeps_its_old_weights_is_refused(students, engine_arguments, monkeypatch):
    facts = [read_model(str(folder)) for folder in students]
    backend = started(facts[0], engine_arguments)
    try:
        backend.switch(facts[1])
        monkeypatch.setattr(backend._client, "reload_weights", lambda folder: None)
        with pytest.raises(RunFailure, match="has not taken the weights"):
            backend.switch(facts[2])
        # Nothing to take: the same weights in another folder.
        backend.switch(facts[1])
    finally:
        backend.close()


def test_a_layer_that_keeps_its_old_weights_is_noticed(small_llama, tmp_path, engine_arguments):
    """vLLM's CPU build does so with a tied unembedding, which therefore gets no key."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eval_harness.backends.vllm import VllmBackend

    model = AutoModelForCausalLM.from_pretrained(small_llama)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(small_llama).save_pretrained(tmp_path / "tied")
    facts = [
        read_model(str(folder))
        for folder in (tmp_path / "tied", student(tmp_path / "tied", tmp_path / "other", 1))
    ]
    assert VllmBackend.sharing_key(facts[0], engine_arguments, max_length=MAX_LENGTH) is None
    backend = started(facts[0], engine_arguments)
    try:
        with pytest.raises(RunFailure, match="has not taken the weights"):
            backend.switch(facts[1])
    finally:
        backend.close()


@pytest.fixture
def starts(monkeypatch):
    """The models with which engines are started."""
    from eval_harness.backends.vllm import VllmBackend

    found, load = [], VllmBackend.load.__func__

    def counted(cls, facts, arguments, **kwargs):
        found.append(facts.name)
        return load(cls, facts, arguments, **kwargs)

    monkeypatch.setattr(VllmBackend, "load", classmethod(counted))
    return found


def settings(small_benchmark, output_path, engine_arguments, **model_args):
    return Settings(
        model="vllm",
        model_args={**engine_arguments, **model_args},
        benchmarks=select_benchmarks("small", find_benchmarks(small_benchmark)),
        protocol=make_protocol("default", seeds=[10, 20], max_new_tokens=16),
        output_path=output_path,
        limit=8,
        # vLLM's CPU build gives no log-probabilities of prompts with an adapter.
        loglikelihood="peft" not in model_args,
    )


def found(results):
    (task,) = results.tasks.values()
    rows = [sample.to_json() for sample in task.samples]
    return rows, task.metrics, task.fingerprint


def test_systems_share_engines_and_get_the_results_of_calls_of_their_own(
    students, small_llama, small_benchmark, tmp_path, engine_arguments, starts
):
    base = str(small_llama)
    models = [
        {"pretrained": str(students[0])},
        {"pretrained": base, "peft": str(adapter(small_llama, tmp_path / "a", seed=1, rank=4))},
        {"pretrained": str(students[1])},
        {"pretrained": base, "peft": str(adapter(small_llama, tmp_path / "b", seed=2, rank=12))},
    ]

    def all_settings(out):
        return [settings(small_benchmark, out, engine_arguments, **model) for model in models]

    outcomes = list(run_systems(all_settings(tmp_path / "together")))
    assert [outcome.place for outcome in outcomes] == [0, 2, 1, 3]
    assert starts == [outcomes[0].name, outcomes[2].name]
    together = {outcome.place: found(outcome.results) for outcome in outcomes}
    for place, own in enumerate(all_settings(tmp_path / "alone")):
        results, _ = run_evaluation(own)
        assert together[place] == found(results)
    assert len({str(rows) for rows, _, _ in together.values()}) == len(models)


def test_a_model_whose_logits_are_nan_fails_alone_and_gets_no_scores(
    students, small_benchmark, tmp_path, engine_arguments
):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(students[1], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    outcomes = list(
        run_systems(
            [
                replace(
                    settings(
                        small_benchmark, tmp_path / "out", engine_arguments, pretrained=str(model)
                    ),
                    loglikelihood=False,
                )
                for model in (students[0], broken, students[2])
            ]
        )
    )
    assert [outcome.results is None for outcome in outcomes] == [False, True, False]
    assert "logits are NaN; try another dtype" in outcomes[1].failure
    (stored,) = (tmp_path / "out").glob("*broken/answers_*.jsonl")
    assert len(stored.read_text("utf-8").splitlines()) == 1  # its head
