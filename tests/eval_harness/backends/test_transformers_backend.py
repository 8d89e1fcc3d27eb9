"""The transformers backend: what it generates, and what its answers do not depend on."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.ngrams import NgramHistory, first_repeat
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.backends.transformers_arguments import checked_arguments
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.model_folder.identity import read_model

GREEDY = Sampling(24, 0.0, 1.0, 0, 0)
SAMPLED = replace(GREEDY, temperature=1.0)


def backend_of(folder: Path, **kwargs) -> TransformersBackend:
    return TransformersBackend(read_model(str(folder)), dtype="float32", device="cpu", **kwargs)


@pytest.fixture(scope="module")
def llama(small_llama):
    return backend_of(small_llama, batch_size=8)


@pytest.fixture(scope="module", params=["small_llama", "small_gpt2"])
def either(request):
    return backend_of(request.getfixturevalue(request.param), batch_size=8)


def make_requests(num: int) -> list[Request]:
    rng = random.Random(0)
    lengths = [rng.randint(1, 60) for _ in range(num)]
    return [
        Request(tuple(rng.randrange(1, 2000) for _ in range(length)), rng.randrange(2**63))
        for length in lengths
    ]


def answers(backend, requests, sampling, **kwargs) -> dict[int, tuple[list[int], str]]:
    found = list(backend.generate(requests, sampling, **kwargs))
    assert len({answer.index for answer in found}) == len(found)
    return {answer.index: (answer.token_ids, answer.finish_reason) for answer in found}


def test_greedy_equals_a_plain_loop_without_cache_or_padding(either):
    requests = make_requests(12)
    found = answers(either, requests, GREEDY)
    for index, request in enumerate(requests):
        tokens = list(request.prompt_ids)
        with torch.no_grad():
            for _ in range(GREEDY.max_new_tokens):
                token = int(either.model(torch.tensor([tokens])).logits[0, -1].argmax())
                if token == 0:
                    break
                tokens.append(token)
        expected = tokens[len(request.prompt_ids) :]
        assert found[index][0] == expected
        assert found[index][1] == ("stop" if len(expected) < GREEDY.max_new_tokens else "length")


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_order_of_requests_changes_nothing(llama, sampling):
    requests = make_requests(20)
    order = list(range(20))
    random.Random(1).shuffle(order)
    found = answers(llama, requests, sampling)
    shuffled = answers(llama, [requests[index] for index in order], sampling)
    assert {order[index]: answer for index, answer in shuffled.items()} == found


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_going_on_gives_the_answers_of_an_uninterrupted_run(llama, sampling):
    requests = make_requests(20)
    whole = answers(llama, requests, sampling)
    done = frozenset(random.Random(2).sample(range(20), 9))
    rest = answers(llama, requests, sampling, done=done)
    assert rest == {index: answer for index, answer in whole.items() if index not in done}


def test_finished_batches_are_not_run_again(llama):
    assert answers(llama, make_requests(8), GREEDY, done=frozenset(range(8))) == {}


def test_batch_size_changes_no_float32_answer_here(small_llama, llama):
    """Not a promise (near ties may flip), but what 64 sampled rows of this model show."""
    requests = make_requests(64)
    alone = answers(backend_of(small_llama, batch_size=1), requests, SAMPLED)
    assert answers(llama, requests, SAMPLED) == alone


def test_different_seeds_give_different_answers(llama):
    request = make_requests(1)[0]
    found = answers(llama, [replace(request, seed=seed) for seed in range(8)], SAMPLED)
    assert len({tuple(tokens) for tokens, _ in found.values()}) > 4


def test_some_sampled_answers_stop_and_some_reach_the_limit(llama):
    found = answers(llama, make_requests(64), SAMPLED)
    reasons = [reason for _, reason in found.values()]
    assert set(reasons) == {"stop", "length"}
    assert all((len(tokens) == 24) == (reason == "length") for tokens, reason in found.values())


def test_the_ngram_rule_holds_over_prompt_and_answer(llama):
    request = Request((5, 6, 7, 5, 6), 1)
    free = answers(llama, make_requests(20), replace(GREEDY, max_new_tokens=60))
    requests = [*make_requests(20), request]
    held = answers(llama, requests, replace(GREEDY, max_new_tokens=60, no_repeat_ngram_size=2))
    for index, (tokens, _) in held.items():
        assert first_repeat(requests[index].prompt_ids, tokens, 2) is None
    broken = [
        first_repeat(requests[index].prompt_ids, tokens, 2) for index, (tokens, _) in free.items()
    ]
    assert any(position is not None for position in broken)
    assert held[20][0][0] not in NgramHistory(2, request.prompt_ids).banned()


def test_padding_does_not_count_as_tokens_of_the_ngram_rule(small_llama, llama):
    requests = [Request((9,), 1), Request(tuple(range(100, 160)), 2)]
    sampling = replace(GREEDY, no_repeat_ngram_size=2)
    alone = answers(backend_of(small_llama, batch_size=1), requests, sampling)
    assert answers(llama, requests, sampling) == alone


def test_log_likelihoods_equal_those_computed_row_by_row(either):
    requests = make_requests(20)
    items = [Continuation(item.prompt_ids, item.prompt_ids[::-1]) for item in requests]
    found = {result.index: result.total for result in either.log_likelihoods(items)}
    for index, item in enumerate(items):
        tokens = torch.tensor([item.prompt_ids + item.token_ids])
        with torch.no_grad():
            logits = either.model(tokens).logits[0].double().log_softmax(-1)
        first = len(item.prompt_ids)
        expected = sum(logits[first - 1 + i, token] for i, token in enumerate(item.token_ids))
        assert found[index] == pytest.approx(float(expected), rel=1e-5)


def test_generation_settings_of_the_folder_are_not_the_protocol_s(small_llama, llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(small_llama)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = list(range(1, 1000))
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((small_llama / name).read_bytes())
    requests = make_requests(6)
    assert answers(backend_of(tmp_path), requests, GREEDY) == answers(llama, requests, GREEDY)


def test_more_than_one_end_token_stops(small_llama):
    facts = read_model(str(small_llama))
    backend = TransformersBackend(
        replace(facts, stop_token_ids=(0, *range(1000, 2048))), device="cpu"
    )
    found = answers(backend, make_requests(10), GREEDY)
    assert any(reason == "stop" for _, reason in found.values())
    assert all(token < 1000 for tokens, _ in found.values() for token in tokens)


def test_nan_logits_end_the_run(small_llama):
    backend = backend_of(small_llama)
    with torch.no_grad():
        backend.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RunFailure, match="logits are NaN; try another dtype"):
        answers(backend, make_requests(2), GREEDY)


def test_an_adapter_is_applied(small_llama, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is an extra")
    model = AutoModelForCausalLM.from_pretrained(small_llama)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    facts = read_model(str(small_llama), adapter=str(tmp_path))
    assert facts.name == f"{small_llama}+{tmp_path}"
    assert facts.identity["adapter"] != read_model(str(small_llama)).identity["files"]
    requests = make_requests(6)
    adapted = answers(TransformersBackend(facts, dtype="float32", device="cpu"), requests, GREEDY)
    merged = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(small_llama), tmp_path
    ).merge_and_unload()
    plain = backend_of(small_llama)
    assert adapted != answers(plain, requests, GREEDY)
    plain.model = merged.eval()
    plain.model.generation_config.pad_token_id = 1
    assert adapted == answers(plain, requests, GREEDY)


def test_whole_batches_are_planned_the_same_again(llama):
    """As another process, or a resumed run, is given some of them."""
    asked = [
        Continuation(request.prompt_ids, (5,) * (1 + 13 * index % 90))
        for index, request in enumerate(make_requests(160))
    ]
    batches = llama.plan_log_likelihoods(asked)
    assert len(batches) > 5
    mine = [batch for number, batch in enumerate(batches) if number % 2 or number == 0]
    order = [index for batch in mine for index in batch]
    again = llama.plan_log_likelihoods([asked[index] for index in order])
    assert [[order[place] for place in batch] for batch in again] == mine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtyp": "float32"}, "--model_args dtyp: --model hf does not know it.*'dtype'"),
        ({"tensor_parallel_size": 2}, "--model hf does not know it"),
        ({"dtype": "int8"}, "dtype = 'int8', expected auto, float32, bfloat16, float16"),
        ({"device": "cuda:99"}, "device = cuda:99: torch cannot use it"),
        ({"batch_size": 0}, "batch_size = 0, expected an integer of at least 1"),
        ({"batch_size": "many"}, "batch_size = 'many'"),
        ({"attn_implementation": "foo"}, "attn_implementation = 'foo', expected one of eager,"),
    ],
)
def test_wrong_arguments_are_refused(given, message):
    with pytest.raises(DistillensError, match=message):
        checked_arguments(given)
