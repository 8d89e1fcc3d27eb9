"""Answers while training depend on weights, prompts and what is asked for, on nothing else."""

from types import SimpleNamespace

import pytest
import torch
from small_models import small_model
from transformers import GenerationConfig

from distillens_plugin.models.generating import Decoding, answer, begin, generating, num_token_ids
from eval_harness.errors import RunFailure

END = 2
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]
GREEDY = Decoding(end_ids=(END,), pad_id=0, max_new_tokens=8)
SAMPLED = Decoding(end_ids=(END,), pad_id=0, max_new_tokens=8, temperature=1.0)

# What a generation_config.json may say; each of these changes or breaks answers if it is heeded.
HOSTILE = {
    "max_length": 6,
    "max_new_tokens": 1,
    "min_length": 40,
    "min_new_tokens": 8,
    "early_stopping": True,
    "max_time": 1e-9,
    "stop_strings": ["a"],
    "do_sample": True,
    "num_beams": 3,
    "num_beam_groups": 3,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {"nbits": 4},
    "max_cache_len": 4,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.01,
    "top_h": 0.01,
    "min_p": 0.99,
    "typical_p": 0.01,
    "epsilon_cutoff": 0.9,
    "eta_cutoff": 0.9,
    "diversity_penalty": 5.0,
    "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0,
    "length_penalty": -9.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[i] for i in range(3, 40)],
    "force_words_ids": [[60]],
    "constraints": None,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "forced_bos_token_id": 60,
    "forced_eos_token_id": 61,
    "exponential_decay_length_penalty": [1, 9.0],
    "suppress_tokens": list(range(3, 40)),
    "begin_suppress_tokens": list(range(3, 60)),
    "sequence_bias": [[[62], 99.0]],
    "token_healing": True,
    "guidance_scale": 9.0,
    "low_memory": True,
    "watermarking_config": {"bias": 9.0, "greenlist_ratio": 0.1, "hashing_key": 3},
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "pad_token_id": 63,
    "bos_token_id": 63,
    "eos_token_id": list(range(3, 64)),
    "decoder_start_token_id": 63,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "prefill_chunk_size": 2,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 2,
    "is_assistant": True,
    "num_assistant_tokens": 2,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 1,
    "assistant_ensemble_weight": 0.5,
    "target_lookbehind": 1,
    "compile_config": None,
    "disable_compile": True,
    "continuous_batching_config": None,
    "speculation_type": "mtp",
    "use_mtp": True,
}


@pytest.fixture(scope="module")
def model():
    return small_model("llama", layers=2, width=32, vocab=64)


def answers(model, decoding, prompts=PROMPTS, seed=3):
    torch.manual_seed(seed)
    return answer(model, prompts, decoding)


def test_no_setting_of_the_models_file_changes_an_answer(model):
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields - {"transformers_version"} <= HOSTILE.keys(), "a new setting: give it a value"
    expected = {kind: answers(model, kind) for kind in (GREEDY, SAMPLED)}
    assert expected[GREEDY] != expected[SAMPLED]
    own = model.generation_config
    try:
        for name in sorted(fields & HOSTILE.keys()):
            if HOSTILE[name] is None:
                continue
            model.generation_config = SettingsOf(name)
            for kind, found in expected.items():
                assert answers(model, kind) == found, name
            assert getattr(model.generation_config, name) == HOSTILE[name]
    finally:
        model.generation_config = own


def SettingsOf(name):  # noqa: N802 (a GenerationConfig that skips its own checks)
    settings = GenerationConfig()
    setattr(settings, name, HOSTILE[name])
    return settings


def test_such_settings_would_change_answers_if_they_were_heeded(model):
    """The test above can fail: generate by itself heeds them."""
    heeded = 0
    for name in ("repetition_penalty", "suppress_tokens", "eos_token_id", "forced_eos_token_id"):
        with generating(model) as plain:
            plain.generation_config = SettingsOf(name)
            ids = torch.tensor([PROMPTS[0]])
            found = plain.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
            heeded += found[0, 5:].tolist() != answers(model, GREEDY)[0]
    assert heeded >= 3


def test_modes_and_settings_are_put_back_even_after_a_failure(model):
    own = model.generation_config
    model.train()
    frozen = model.model.layers[0].eval()
    with pytest.raises(RunFailure, match="eval"), generating(model):
        raise RunFailure("training" if model.training else "eval")
    assert model.generation_config is own
    assert model.training
    assert not frozen.training
    model.eval()


def test_greedy_answers_are_the_likeliest_tokens_up_to_an_end_token(model):
    free = answers(model, GREEDY)[0]
    ends = (END, free[3])
    found = answers(model, Decoding(end_ids=ends, pad_id=0, max_new_tokens=8))
    for prompt, answered in zip(PROMPTS, found, strict=True):
        ids = list(prompt)
        while len(ids) - len(prompt) < 8 and ids[-1] not in ends[: 2 * (len(ids) > len(prompt))]:
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert answered == ids[len(prompt) :]
    assert found[0] == free[: free.index(ends[1]) + 1] != free


def test_ids_that_belong_to_no_token_are_never_chosen(model):
    for temperature in (0.0, 5.0):
        found = answers(
            model,
            Decoding(
                end_ids=(END,), pad_id=0, max_new_tokens=30, num_ids=12, temperature=temperature
            ),
            PROMPTS * 8,
        )
        assert max(map(max, found)) < 12
    free = Decoding(end_ids=(END,), pad_id=0, max_new_tokens=30, temperature=5.0)
    assert max(map(max, answers(model, free, PROMPTS * 8))) >= 12


def test_how_many_ids_there_are_is_what_tokenizer_and_models_have_in_common(model):
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 49})
    assert num_token_ids(tokenizer, model) == 50
    smaller = small_model("gpt2", layers=1, vocab=40)
    assert num_token_ids(tokenizer, model, smaller, None) == 40


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_answers_end_where_learned_positions_do(kind):
    name = "max_position_embeddings" if kind == "opt" else "n_positions"
    small = small_model(kind, layers=1, vocab=64, **{name: 16})
    found = answers(small, Decoding(end_ids=(1,), pad_id=0, max_new_tokens=100), [[5] * 10, [6]])
    assert len(found[0]) <= 6
    assert len(found[1]) <= 6
    assert answers(small, Decoding(end_ids=(1,), pad_id=0, max_new_tokens=9), [[5] * 16]) == [[]]
    limited = Decoding(end_ids=(1,), pad_id=0, max_length=13)
    assert len(answers(small, limited, [[5] * 10])[0]) <= 3


@pytest.mark.parametrize(("first", "expected"), [(7, 7), (0, 0), (None, 9)])
def test_an_empty_prompt_begins_with_the_first_or_the_end_token(model, first, expected):
    tokenizer = SimpleNamespace(bos_token_id=first, eos_token_id=9)
    assert begin([], tokenizer) == [expected]
    assert begin([4], tokenizer) == [4]
    found = answers(model, GREEDY, [begin([], tokenizer)] * 2)
    assert found[0] == found[1] != []


def test_answers_do_not_depend_on_padding_where_a_model_reads_it_as_text():
    from transformers import RwkvConfig, RwkvForCausalLM

    torch.manual_seed(1)
    config = RwkvConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, context_length=64, bos_token_id=1
    )
    recurrent = RwkvForCausalLM(config).eval()
    for parameter in recurrent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    together = answers(recurrent, GREEDY)
    assert together == [answers(recurrent, GREEDY, [prompt])[0] for prompt in PROMPTS]


def test_logits_that_are_not_finite_are_told_in_one_line():
    broken = small_model("llama", layers=1, vocab=64)
    with torch.no_grad():
        broken.lm_head.weight[3].fill_(float("nan"))
    for decoding in (GREEDY, SAMPLED):
        with pytest.raises(RunFailure, match="logits are not finite while it answers"):
            answers(broken, decoding)
