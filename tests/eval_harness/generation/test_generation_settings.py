"""Answers depend on weights and protocol, on nothing that generation_config.json says."""

import json
import shutil

import pytest
import torch
from transformers import GenerationConfig

from eval_harness.backends.base import Request, Sampling
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.shared.model_folder.identity import read_model

REQUESTS = [Request((5, 6, 7, 5, 6), 1), Request((9, 9, 9), 2), Request(tuple(range(40, 60)), 3)]
# A value that would change answers, or what `generate` does, if it were followed.
LOUD = {
    "max_length": 6,
    "max_new_tokens": 1,
    "min_length": 60,
    "min_new_tokens": 23,
    "early_stopping": True,
    "max_time": 1e-6,
    "stop_strings": ["a", "e", "t"],
    "do_sample": True,
    "num_beams": 3,
    "use_cache": False,
    "cache_implementation": "static",
    "temperature": 9.0,
    "top_k": 2,
    "top_p": 0.1,
    "min_p": 0.9,
    "top_h": 0.2,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "length_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[n] for n in range(2, 1500)],
    "renormalize_logits": True,
    "forced_bos_token_id": 77,
    "forced_eos_token_id": 78,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [1, 9.0],
    "suppress_tokens": list(range(2, 1500)),
    "begin_suppress_tokens": list(range(2, 1500)),
    "sequence_bias": [[[n], 50.0] for n in range(100, 110)],
    "guidance_scale": 7.0,
    "token_healing": True,
    "num_return_sequences": 3,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict_in_generate": True,
    "pad_token_id": 99,
    "bos_token_id": 98,
    "decoder_start_token_id": 97,
    "encoder_no_repeat_ngram_size": 1,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "diversity_penalty": 5.0,
    "num_beam_groups": 3,
    "low_memory": True,
    "prompt_lookup_num_tokens": 4,
    "prefill_chunk_size": 2,
    "num_assistant_tokens": 3,
    "assistant_early_exit": 1,
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 50.0},
    "is_assistant": True,
    "assistant_confidence_threshold": 0.9,
    "assistant_ensemble_weight": 0.5,
    "assistant_lookbehind": 1,
    "target_lookbehind": 1,
    "num_assistant_tokens_schedule": "heuristic",
    "speculation_type": "prompt_lookup",
    "constraints": [[5]],
    "force_words_ids": [[5]],
    "max_cache_len": 4,
    "max_matching_ngram_size": 1,
}
# Only the end tokens are read on purpose; these describe the file, or need objects.
UNTRIED = {
    "eos_token_id",
    "transformers_version",
    "generation_kwargs",
    "compile_config",
    "cache_config",
    "return_legacy_cache",
    "disable_compile",
    "use_mtp",
    "continuous_batching_config",
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_setting_of_the_folder_reaches_the_answers(small_llama, tmp_path, temperature):
    sampling = Sampling(24, temperature, 1.0, 0, 0)
    folder = shutil.copytree(small_llama, tmp_path / "model")

    def answers() -> list[tuple[int, list[int], str]]:
        backend = TransformersBackend(read_model(str(folder)), dtype="float32", device="cpu")
        found = backend.generate(REQUESTS, sampling)
        return sorted((answer.index, answer.token_ids, answer.finish_reason) for answer in found)

    path = folder / "generation_config.json"
    plain = json.loads(path.read_text())
    expected = answers()
    # All at once; where they change something, one by one to find which.
    path.write_text(json.dumps({**plain, **LOUD}))
    if answers() != expected:
        for key, value in LOUD.items():
            path.write_text(json.dumps({**plain, key: value}))
            assert answers() == expected, key
        pytest.fail("several of the settings together change the answers")
    # An older model keeps such settings in its config.json.
    config = json.loads((folder / "config.json").read_text())
    path.write_text(json.dumps(plain))
    older = {key: LOUD[key] for key in ("repetition_penalty", "bad_words_ids", "num_beams")}
    (folder / "config.json").write_text(json.dumps({**config, **older}))
    assert answers() == expected


def test_every_setting_that_transformers_has_is_tried():
    """A version with a new setting fails here, so that somebody looks at it."""
    known = {key for key in GenerationConfig().__dict__ if not key.startswith("_")}
    assert known - UNTRIED - LOUD.keys() == set()


def test_the_settings_would_change_what_generate_gives(small_llama):
    """What is left out above does something: the test cannot pass by its own choice of values."""
    backend = TransformersBackend(read_model(str(small_llama)), dtype="float32", device="cpu")
    ids = torch.tensor([REQUESTS[0].prompt_ids])
    plain = backend.model.generate(ids, max_new_tokens=24)
    for key in ("repetition_penalty", "suppress_tokens", "forced_eos_token_id", "max_length"):
        more = {} if key == "max_length" else {"max_new_tokens": 24}
        changed = backend.model.generate(ids, **{key: LOUD[key], **more})
        assert changed.tolist() != plain.tolist(), key
