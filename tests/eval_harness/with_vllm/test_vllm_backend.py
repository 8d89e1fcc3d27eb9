"""Real vLLM against transformers: the same greedy tokens, likelihoods and n-gram rule."""

import random
from dataclasses import replace

import pytest

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.ngrams import first_repeat
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.shared.model_folder.identity import read_model

pytestmark = pytest.mark.vllm

GREEDY = Sampling(32, 0.0, 1.0, 0, 0)
SAMPLED = replace(GREEDY, temperature=1.0)


def make_requests(num: int, longest: int = 200) -> list[Request]:
    rng = random.Random(0)
    return [
        Request(
            tuple(rng.randrange(1, 2000) for _ in range(rng.randint(1, longest))),
            rng.randrange(2**63),
        )
        for _ in range(num)
    ]


def answers(backend, requests, sampling, **kwargs) -> dict[int, tuple[list[int], str]]:
    found = list(backend.generate(requests, sampling, **kwargs))
    assert len({answer.index for answer in found}) == len(found)
    return {answer.index: (answer.token_ids, answer.finish_reason) for answer in found}


@pytest.fixture(scope="module")
def hf_backend(small_llama):
    return TransformersBackend(read_model(str(small_llama)), dtype="float32", device="cpu")


def test_float32_greedy_equals_transformers_token_for_token_on_64_prompts(vllm_backend, hf_backend):
    requests = make_requests(64)
    found = answers(vllm_backend, requests, GREEDY)
    assert found == answers(hf_backend, requests, GREEDY)
    assert {reason for _, reason in found.values()} == {"stop", "length"}


def test_settings_and_tokenizer_of_the_folder_do_not_reach_the_answers(vllm_backend, hf_backend):
    """The folder's tokenizer would end the first answer at once, its settings would change all."""
    request = Request((5, 6, 7), 1)
    found = answers(vllm_backend, [request], GREEDY)
    assert found == answers(hf_backend, [request], GREEDY)
    assert len(found[0][0]) > 1


def test_request_seeds_repeat_whatever_the_order_and_the_batch(vllm_backend):
    requests = make_requests(32)
    found = answers(vllm_backend, requests, SAMPLED)
    order = random.Random(1).sample(range(32), 32)
    shuffled = answers(vllm_backend, [requests[index] for index in order], SAMPLED)
    assert {order[index]: answer for index, answer in shuffled.items()} == found
    alone = answers(vllm_backend, requests[5:6], SAMPLED)
    assert alone[0] == found[5]
    assert answers(vllm_backend, [replace(requests[5], seed=1)], SAMPLED)[0] != found[5]


def test_going_on_gives_the_answers_of_an_uninterrupted_run(vllm_backend):
    requests = make_requests(32)
    whole = answers(vllm_backend, requests, SAMPLED)
    done = frozenset(random.Random(2).sample(range(32), 15))
    rest = answers(vllm_backend, requests, SAMPLED, done=done)
    assert rest == {index: answer for index, answer in whole.items() if index not in done}


def test_stopping_in_the_middle_leaves_nothing_for_the_next_call(vllm_backend):
    requests = make_requests(16)
    expected = answers(vllm_backend, requests, GREEDY)
    stream = vllm_backend.generate(requests, GREEDY)
    next(stream)
    stream.close()
    assert answers(vllm_backend, requests, GREEDY) == expected


@pytest.mark.parametrize("size", [2, 6])
def test_the_ngram_rule_is_the_same_in_both_backends(vllm_backend, hf_backend, size):
    # Prompts of few different tokens, so that the rule has something to forbid from the start.
    rng = random.Random(3)
    requests = [
        Request(
            tuple(rng.choice([5, 6, 7]) for _ in range(rng.randint(1, 80))), rng.randrange(2**63)
        )
        for _ in range(32)
    ]
    sampling = replace(GREEDY, max_new_tokens=60, no_repeat_ngram_size=size)
    found = answers(vllm_backend, requests, sampling)
    assert found == answers(hf_backend, requests, sampling)
    for index, (tokens, _) in found.items():
        assert first_repeat(requests[index].prompt_ids, tokens, size) is None
    # Only where the rule changes answers does the comparison say something.
    assert size > 2 or found != answers(vllm_backend, requests, replace(GREEDY, max_new_tokens=60))


def test_the_ngram_rule_holds_for_sampled_answers(vllm_backend):
    requests = make_requests(16, longest=8)
    sampling = replace(SAMPLED, max_new_tokens=200, no_repeat_ngram_size=1)
    for index, (tokens, _) in answers(vllm_backend, requests, sampling).items():
        assert first_repeat(requests[index].prompt_ids, tokens, 1) is None


def test_log_likelihoods_equal_transformers(vllm_backend, hf_backend):
    items = [Continuation(r.prompt_ids, r.prompt_ids[::-1][:40]) for r in make_requests(24, 150)]
    found = {item.index: item.total for item in vllm_backend.log_likelihoods(items)}
    expected = {item.index: item.total for item in hf_backend.log_likelihoods(items)}
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_engine_without_the_processor_refuses_the_rule(vllm_backend, monkeypatch):
    monkeypatch.setattr(vllm_backend, "no_repeat_ngrams", False)
    with pytest.raises(ValueError, match="without the n-gram logits processor"):
        answers(vllm_backend, make_requests(1), replace(GREEDY, no_repeat_ngram_size=6))
