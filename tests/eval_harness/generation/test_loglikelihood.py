"""Negative log-likelihood of references: which tokens count, and how rows are put together."""

import math
from dataclasses import dataclass, replace

import pytest
from small_tokenizers import CHATML, SIGNS

from eval_harness.backends.base import Backend, LogLikelihood
from eval_harness.benchmarks import Row
from eval_harness.errors import RunFailure
from eval_harness.generation.loglikelihood import LikelihoodTask, likelihood_metrics
from eval_harness.generation.store import AnswerStore
from eval_harness.results.file_models import LikelihoodRow
from eval_harness.results.schema import Sample
from eval_harness.shared.model_folder.identity import read_model
from eval_harness.shared.text.tokenisation import TextEncoder


@dataclass
class FakeBackend:
    """Each token of a continuation costs `nats`."""

    nats: float
    num_calls: int = 0

    plan_log_likelihoods = Backend.plan_log_likelihoods

    def log_likelihoods(self, continuations):
        for index, item in reversed(list(enumerate(continuations))):
            self.num_calls += 1
            yield LogLikelihood(index, -self.nats * len(item.token_ids))


def rows_of(*references: tuple[str, ...]) -> list[Row]:
    return [Row(i, str(i), "Do.", "", None, texts, {}) for i, texts in enumerate(references)]


@pytest.fixture
def make_task(small_gpt2, tmp_path):
    facts = read_model(str(small_gpt2))

    def make(rows, prompt_length=10) -> LikelihoodTask:
        store = AnswerStore(tmp_path / "likelihoods.jsonl", {}, LikelihoodRow)
        return LikelihoodTask(rows, [(5,) * prompt_length] * len(rows), facts, store)

    return make


def samples_of(rows) -> list[Sample]:
    return [Sample(row.doc_id, {"id": row.row_id}, ["x"], {}, ["a"], ["a"], [1]) for row in rows]


def test_a_reference_is_its_tokens_and_the_end_token_without_special_ones_before(make_task):
    task = make_task(rows_of(("The answer is 7.",)))
    ((_, item),) = task.continuations
    tokenizer = task.facts.tokenizer
    assert tokenizer.decode(item.token_ids) == "The answer is 7." + tokenizer.eos_token
    assert item.prompt_ids == (5,) * 10


def test_long_references_are_cut_where_the_model_ends_and_lose_the_end_token(make_task):
    task = make_task(rows_of(("word " * 1000,)), prompt_length=100)
    ((_, item),) = task.continuations
    assert len(item.token_ids) == 512 - 100 - 1
    assert item.token_ids[-1] != task.facts.tokenizer.eos_token_id
    assert task.longest() == 512


def test_the_mean_is_over_all_tokens_of_all_references(make_task):
    rows = rows_of(("one", "a longer reference than one"), ("two",))
    task = make_task(rows)
    task.fill(FakeBackend(2.0))
    samples = samples_of(rows)
    metrics = likelihood_metrics(task, samples)
    assert metrics["nll,none"] == pytest.approx(2.0)
    assert metrics["perplexity,none"] == pytest.approx(math.exp(2))
    assert metrics["nll_stderr,none"] == pytest.approx(0, abs=1e-9)
    assert len(samples[0].extra["reference_nll"]) == 2
    tokens = samples[1].extra["reference_tokens"]
    assert samples[1].extra["reference_nll"] == [pytest.approx(2.0 * tokens[0])]


def test_what_is_stored_is_not_computed_again(make_task):
    rows = rows_of(("one",), ("two",))
    first = make_task(rows)
    first.fill(FakeBackend(1.0))
    first.store.close()
    again, backend = make_task(rows), FakeBackend(1.0)
    assert again.missing() == []
    again.fill(backend)
    assert backend.num_calls == 0


def test_an_infinite_likelihood_ends_the_run_and_names_the_row(make_task):
    with pytest.raises(RunFailure, match="row '0': the log-likelihood of its reference is -inf"):
        make_task(rows_of(("one",))).fill(FakeBackend(math.inf))


def test_perplexity_beyond_floats_is_not_available(make_task):
    rows = rows_of(("one",))
    task = make_task(rows)
    task.fill(FakeBackend(800.0))
    metrics = likelihood_metrics(task, samples_of(rows))
    assert metrics["perplexity,none"] == "N/A"
    assert metrics["nll_stderr,none"] == "N/A"


def test_tags_in_a_reference_are_tokens_as_in_training(make_task):
    task = make_task(rows_of(("<think>2, 3, 4</think>4 <|endoftext|>",)))
    tokenizer = task.facts.tokenizer
    tokenizer.add_tokens(SIGNS, special_tokens=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    # This template writes one of the two itself, which makes it text in a user's message.
    tokenizer.chat_template = CHATML + "<think>"
    tags = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    chat = replace(task, encoder=TextEncoder(tokenizer, template="chat"))
    ((_, found),) = chat.continuations
    assert [index for index in found.token_ids if index in tags] == tags
    # <|endoftext|> in the text ends nothing.
    assert tokenizer.eos_token_id not in found.token_ids
    assert found.token_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    ((_, plain),) = replace(task, encoder=TextEncoder(tokenizer, template="alpaca")).continuations
    assert tokenizer.decode(found.token_ids[:-1]) == tokenizer.decode(plain.token_ids[:-1])
