"""Protocols, the settings that change them, and request seeds."""

import pytest

from eval_harness.errors import DistillensError
from eval_harness.protocols.protocol import PROTOCOLS, make_protocol, request_seed
from eval_harness.shared.text.prompt_starts import prompt_starts


def test_default_is_the_reference_s_sampling_without_its_hidden_ngram_rule():
    settings = PROTOCOLS["default"].settings()
    assert settings == {
        "template": "alpaca",
        "add_bos_token": "auto",
        "truncation": "template",
        "max_prompt_tokens": 256,
        "max_new_tokens": 256,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "no_repeat_ngram_size": 0,
        "seeds": [10, 20, 30, 40, 50],
        "until": list(prompt_starts("alpaca")),
        "newline": None,
    }


def test_minillm_turns_on_the_ngram_rule_the_reference_cut_and_half_precision():
    default, minillm = PROTOCOLS["default"].settings(), PROTOCOLS["minillm"].settings()
    changed = {key: value for key, value in minillm.items() if value != default[key]}
    # As its code has it: answers run on, and <n> is a newline in any data.
    assert changed == {
        "add_bos_token": False,
        "truncation": "reference",
        "no_repeat_ngram_size": 6,
        "until": [],
        "newline": "<n>",
    }
    assert PROTOCOLS["minillm"].dtype == "float16"


def test_gen_kwargs_take_lm_eval_s_names():
    kwargs = {"max_gen_toks": 32, "temperature": 0.5, "top_p": 0.9, "no_repeat_ngram_size": 4}
    protocol = make_protocol("default", gen_kwargs=kwargs)
    assert (protocol.max_new_tokens, protocol.temperature) == (32, 0.5)
    assert (protocol.top_p, protocol.no_repeat_ngram_size) == (0.9, 4)


@pytest.mark.parametrize(
    ("value", "stops"),
    [
        ("\nQ:", ("\nQ:",)),
        (["\n\n", "END", "END"], ("\n\n", "END")),
        ('["\\n\\n"]', ("\n\n",)),
        ("[not json", ("[not json",)),
        ([], ()),
    ],
)
def test_stops_replace_those_of_the_template(value, stops):
    protocol = make_protocol("default", gen_kwargs={"until": value}, template="question")
    assert protocol.stops == stops
    assert protocol.settings()["until"] == list(stops)


def test_stops_follow_the_template():
    assert make_protocol("greedy", template="question").stops == ("\nQuestion:",)


@pytest.mark.parametrize("kwargs", [{"top_p": 1}, {"top_p": 1.0, "top_k": 0}, {"temperature": 0}])
def test_greedy_takes_settings_that_say_what_it_does(kwargs):
    assert make_protocol("greedy", gen_kwargs=kwargs).greedy
    assert make_protocol("greedy", gen_kwargs={"do_sample": False}).seeds == (0,)


@pytest.mark.parametrize("kwargs", [{"do_sample": False}, {"temperature": 0}])
def test_greedy_by_gen_kwargs_takes_one_seed(kwargs):
    protocol = make_protocol("default", gen_kwargs=kwargs)
    assert protocol.greedy
    assert protocol.seeds == (0,)


@pytest.mark.parametrize(
    ("name", "kwargs", "seeds", "message"),
    [
        ("minilm", {}, None, "did you mean 'minillm'"),
        ("default", {"temprature": 1}, None, "did you mean 'temperature'"),
        ("default", {"max_gen_toks": 1, "max_new_tokens": 1}, None, "set twice"),
        ("default", {"max_gen_toks": 0}, None, "max_new_tokens = 0, expected an integer"),
        ("default", {"max_gen_toks": 1.5}, None, "max_new_tokens = 1.5, expected an integer"),
        ("default", {"temperature": -1}, None, "temperature = -1, expected 0 to 100"),
        ("default", {"temperature": float("nan")}, None, "temperature = nan, expected a number"),
        ("default", {"temperature": 0.001}, None, "at least 0.01"),
        ("default", {"top_p": 0}, None, "top_p = 0"),
        ("default", {"top_p": 1.1}, None, "top_p = 1.1, expected 0 to 1"),
        ("default", {"top_k": -1}, None, "top_k = -1"),
        ("default", {"do_sample": "yes"}, None, "expected true or false"),
        ("default", {"do_sample": True, "temperature": 0}, None, "give only one of the two"),
        ("default", {"do_sample": False, "temperature": 1}, None, "give only one of the two"),
        ("default", {"do_sample": None}, None, "do_sample=None: expected true or false"),
        ("default", {"do_sample": False, "top_p": 0.5}, None, "top_p=0.5: greedy decoding takes"),
        ("default", {"temperature": 0, "top_k": 5}, None, "top_k=5: greedy decoding takes"),
        ("greedy", {"do_sample": True}, None, "do_sample=true with --protocol greedy: greedy"),
        ("greedy", {"top_p": 0.5}, None, "top_p=0.5: greedy decoding takes"),
        ("greedy", {"top_k": 5}, None, "top_k=5: greedy decoding takes"),
        ("greedy", {"temperature": 0.7}, None, "temperature=0.7: greedy decoding has no temp"),
        ("greedy", {"min_p": 0.1}, None, "min_p: not known"),
        ("default", {"num_beams": 4}, None, "num_beams: not known"),
        ("default", {"max_gen_toks": 10**5000}, None, "an integer of over 40 digits, expected at"),
        ("default", {"max_gen_toks": 2**31}, None, "expected at most 2147483647"),
        ("default", {"temperature": 10**5000}, None, "an integer of over 40 digits, expected 0"),
        ("default", {"top_p": True}, None, "top_p = True, expected a number"),
        ("default", {"until": ""}, None, "until: found an empty text"),
        ("default", {"until": ["a", 1]}, None, "expected a text or a list of texts"),
        ("default", {"until": None}, None, "until=None: expected a text or a list"),
        ("default", {}, [], "--seed is empty"),
        ("default", {}, [1, 2, 1], "1 is named twice"),
        ("greedy", {}, [1, 2], "the same answers for every seed"),
    ],
)
def test_wrong_settings_are_refused(name, kwargs, seeds, message):
    with pytest.raises(DistillensError, match=message):
        make_protocol(name, gen_kwargs=kwargs, seeds=seeds)


def test_wrong_truncation_is_refused():
    with pytest.raises(DistillensError, match="truncation = 'left'"):
        make_protocol("default", truncation="left")


def test_request_seeds_are_stable_over_versions_and_machines():
    # Stored answers are repeated from these numbers: changing the hash needs a new fingerprint.
    assert request_seed(10, "self_inst", "user_oriented_task_0") == 2883834557476246206


def test_request_seeds_differ_by_seed_task_and_row():
    seeds = {
        request_seed(seed, task, row)
        for seed in range(10, 60)
        for task in ("a", "b")
        for row in map(str, range(100))
    }
    assert len(seeds) == 50 * 2 * 100
    assert all(0 <= seed < 2**63 for seed in seeds)
