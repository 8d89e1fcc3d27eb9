"""Models whose answers depend on their neighbours: found by trying, they answer as if alone."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from eval_harness.backends.base import Continuation, Request, Sampling
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.shared.batching import Batching, batching_of, split
from eval_harness.shared.model_folder.identity import read_model

REPO = Path(__file__).resolve().parents[3]
GREEDY = Sampling(8, 0.0, 1.0, 0, 0)
LIKE_LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
STATE = {"num_hidden_layers": 2, "hidden_size": 32, "state_size": 8}
LIKE_GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128}
# model_type -> config, and which prompts may share a batch.
KINDS: dict[str, tuple[dict, Batching]] = {
    "rwkv": (
        {
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "intermediate_size": 64,
            "context_length": 128,
        },
        Batching.ALONE,
    ),
    "recurrent_gemma": (
        {
            **LIKE_LLAMA,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": 64,
            "num_key_value_heads": 1,
            "head_dim": 8,
        },
        Batching.ONE_LENGTH,
    ),
    "mamba": (STATE, Batching.ANY),
    "mamba2": (
        {**STATE, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16},
        Batching.ANY,
    ),
    "falcon_mamba": (STATE, Batching.ANY),
    "lfm2": ({**LIKE_LLAMA, "full_attn_idxs": [1]}, Batching.ANY),
    "bloom": ({"n_layer": 2, "hidden_size": 32, "n_head": 4}, Batching.ANY),
    "gpt2": (LIKE_GPT2, Batching.ANY),
    "llama": (LIKE_LLAMA, Batching.ANY),
}


def make(kind: str) -> torch.nn.Module:
    config = AutoConfig.for_model(
        kind, vocab_size=2048, bos_token_id=None, eos_token_id=0, pad_token_id=1, **KINDS[kind][0]
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_which_prompts_share_a_batch_is_found_by_trying(kind, dtype):
    model = make(kind).to(dtype)
    model.generation_config = GenerationConfig()
    assert batching_of(model) is KINDS[kind][1]


@pytest.mark.parametrize(
    ("batching", "groups"),
    [
        (Batching.ANY, [[0, 1, 2, 3]]),
        (Batching.ONE_LENGTH, [[0, 2], [1], [3]]),
        (Batching.ALONE, [[0], [1], [2], [3]]),
    ],
)
def test_prompts_are_split_into_groups(batching, groups):
    assert split([5, 3, 5, 9], batching) == groups


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(REPO / "recipes/quickstart/tokenizer")


def backend_of(kind, folder, tokenizer, batch_size) -> TransformersBackend:
    if not folder.exists():
        make(kind).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    facts = read_model(str(folder))
    return TransformersBackend(facts, dtype="float32", device="cpu", batch_size=batch_size)


@pytest.mark.parametrize("kind", ["rwkv", "recurrent_gemma", "mamba2"])
def test_answers_and_likelihoods_are_those_of_each_prompt_alone(kind, tmp_path, tokenizer, capsys):
    rng = random.Random(0)
    requests = [
        Request(tuple(rng.randrange(2, 2000) for _ in range(length)), length)
        for length in (3, 9, 9, 4, 17, 3, 9)
    ]
    found = []
    for batch_size in (1, 4):
        capsys.readouterr()
        backend = backend_of(kind, tmp_path / "model", tokenizer, batch_size)
        answers = sorted(backend.generate(requests, GREEDY), key=lambda answer: answer.index)
        found.append([answer.token_ids for answer in answers])
        said = "which is slower" in capsys.readouterr().err
        assert said == (batch_size > 1 and KINDS[kind][1] is not Batching.ANY)
    assert found[0] == found[1]
    items = [Continuation(item.prompt_ids, item.prompt_ids[::-1]) for item in requests]
    for result in backend.log_likelihoods(items):
        ids = torch.tensor([items[result.index].prompt_ids + items[result.index].token_ids])
        with torch.no_grad():
            logits = backend.model(ids).logits[0].double().log_softmax(-1)
        half = ids.shape[1] // 2
        alone = logits[half - 1 : -1].gather(1, ids[0, half:, None]).sum()
        assert result.total == pytest.approx(float(alone), rel=1e-5)


def test_an_interrupted_run_of_such_a_model_goes_on_with_the_same_batches(tmp_path, tokenizer):
    requests = [Request((5, *range(7, 7 + n % 3)), n) for n in range(12)]
    backend = backend_of("recurrent_gemma", tmp_path / "model", tokenizer, 4)
    whole = {a.index: a.token_ids for a in backend.generate(requests, GREEDY)}
    done = frozenset([0, 1, 5, 8])
    rest = {a.index: a.token_ids for a in backend.generate(requests, GREEDY, done=done)}
    assert rest == {index: ids for index, ids in whole.items() if index not in done}
    assert all(
        len({len(requests[index].prompt_ids) for index in batch}) == 1
        for batch in backend.plan(requests)
    )


@torch.no_grad()
def test_an_end_token_among_the_first_answers_is_no_mixing():
    """A row ends sooner by itself than beside one that continues."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=64, initializer_range=0.2, **LIKE_LLAMA)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = torch.tensor([[(3 + 7 * i + j) % 64 for i in range(5)] for j in (0, 29)])
    first, second = model(rows).logits[:, -1].argmax(-1).tolist()
    assert first != second
    model.generation_config.eos_token_id = first
    assert batching_of(model) is Batching.ANY
