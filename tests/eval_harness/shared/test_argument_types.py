"""What a notebook passes by mistake is refused in one line, before anything is written."""

from pathlib import Path

import pytest

from eval_harness import (
    BACKENDS,
    TEMPLATES,
    Answer,
    Backend,
    DistillensError,
    compare,
    evaluate,
    register_backend,
    register_template,
    score,
)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"model": None}, "model = None"),
        ({"tasks": None}, "tasks = None"),
        ({"tasks": 3}, "tasks = 3"),
        ({"tasks": [3]}, r"tasks\[0\] = 3"),
        ({"output_path": None}, "output_path = None"),
        ({"output_path": ""}, "output_path = '' is empty, expected a folder"),
        ({"include_path": 3}, "include_path = 3"),
        ({"backend": None}, "backend = None"),
        ({"protocol": None}, "protocol = None"),
        ({"template": 3}, "template = 3"),
        ({"device": 0}, "device = 0"),
        ({"seeds": 3}, "seeds = 3"),
        ({"seeds": ["a"]}, "seeds = .'a'"),
        ({"seeds": "1,2"}, "seeds = '1,2'"),
        ({"gen_kwargs": "temperature=0"}, "gen_kwargs = 'temperature=0'"),
        ({"model_args": "dtype=float32"}, "model_args = 'dtype=float32'"),
        ({"model_args": {3: True}}, "model_args = {3: True}"),
        ({"data": "gsm8k=a.jsonl"}, "data = 'gsm8k=a.jsonl'"),
        ({"data": {"gsm8k": None}}, "= None, expected a text or a path"),
        ({"log_samples": "no"}, "log_samples = 'no', expected True or False"),
        ({"trust_remote_code": "no"}, "trust_remote_code = 'no'"),
    ],
)
def test_evaluate_refuses_a_wrong_type(wrong, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DistillensError, match=reason):
        evaluate(**{"model": "m", "tasks": "gsm8k", "output_path": "out", **wrong})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: score(None, None), "predictions: expected a list of texts, found NoneType"),
        (lambda: score({"a": "b"}, {"a": "b"}), "predictions: .* found dict"),
        (lambda: score({"a"}, ["a"]), "predictions: .* found set"),
        (lambda: score(["a"], (text for text in "a")), "references: .* found generator"),
        (lambda: score(["a"], ["a"], metrics="rougeL"), "metrics: .* found str"),
        (lambda: compare(["a"], ["b"]), r"systems\[0\] = \['a'\], expected a text or a path"),
        (lambda: compare("a", "b", references=3), "references = 3"),
        (lambda: compare("a", "b", all_pairs="no"), "all_pairs = 'no'"),
    ],
)
def test_score_and_compare_refuse_a_wrong_type(call, reason):
    with pytest.raises(DistillensError, match=reason):
        call()


@pytest.mark.parametrize("one", [True, False])
def test_a_task_may_be_a_path_object(one, small_gpt2, small_benchmark, tmp_path):
    (file,) = Path(small_benchmark).glob("*.yaml")
    results = evaluate(
        small_gpt2,
        file if one else [file],
        output_path=tmp_path / "out",
        protocol="greedy",
        gen_kwargs={"max_gen_toks": 2},
        limit=1,
    )
    assert list(results.tasks) == ["small"]


class Nameless(Backend):
    def generate(self, requests, sampling, *, done=frozenset()):
        yield Answer(0, [], "stop")


class Unfinished(Backend):
    name = "unfinished"


@pytest.mark.parametrize(
    ("name", "backend", "reason"),
    [
        ("own", object(), "not a subclass of Backend"),
        ("own", dict, "not a subclass of Backend"),
        ("own", "my.module:Class", "not a subclass of Backend"),
        ("own", Nameless, "Nameless has no name"),
        ("own", Unfinished, "Unfinished has no generate"),
        (3, Nameless, "printable characters"),
        ("a\nb", Nameless, "printable characters"),
        ("  ", Nameless, "printable characters"),
    ],
)
def test_a_backend_that_cannot_run_is_not_registered(name, backend, reason):
    before = dict(BACKENDS)
    with pytest.raises(DistillensError, match=reason):
        register_backend(name, backend)
    assert before == BACKENDS


@pytest.mark.parametrize("texts", [(3, "{instruction}"), ("own", 3), ("own", "{instruction}", 3)])
def test_a_template_that_is_no_text_is_not_registered(texts):
    before = dict(TEMPLATES)
    with pytest.raises(DistillensError, match="found 3, expected a text"):
        register_template(*texts)
    assert before == TEMPLATES
