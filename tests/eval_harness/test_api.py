"""evaluate, score and compare from Python, on small real models; names of one's own."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eval_harness
from eval_harness import (
    BACKENDS,
    NO_DIFFERENCE,
    TEMPLATES,
    compare,
    evaluate,
    load_results,
    register_backend,
    score,
)
from eval_harness.errors import DistillensError

REPO = Path(__file__).resolve().parents[2]
QUICK = {"gen_kwargs": {"max_gen_toks": 8}, "seeds": [10, 20], "limit": 6}
QUICK |= {"device": "cpu", "model_args": {"dtype": "float32"}}


@pytest.fixture
def own_names():
    """What a test registers is gone after it."""
    backends, templates = dict(BACKENDS), dict(TEMPLATES)
    yield
    for table, before in ((BACKENDS, backends), (TEMPLATES, templates)):
        table.clear()
        table.update(before)


@pytest.fixture
def evaluated(small_gpt2, small_llama, small_benchmark, tmp_path):
    """Results of two models, by the folder they are in."""
    folders = {"gpt2": small_gpt2, "llama": small_llama}
    return {
        tmp_path / "out" / name: evaluate(
            model,
            "small",
            output_path=tmp_path / "out" / name,
            include_path=small_benchmark,
            **QUICK,
        )
        for name, model in folders.items()
    }


def test_evaluate_returns_what_it_writes(evaluated):
    for folder, results in evaluated.items():
        written = load_results(folder)
        task = results.tasks["small"]
        assert task.metrics == written.tasks["small"].metrics
        assert task.source == written.tasks["small"].source
        assert [sample.resps for sample in task.samples] == [
            sample.resps for sample in written.tasks["small"].samples
        ]
        assert (task.num_effective, task.samples[0].seeds) == (6, [10, 20])
        assert written.config["gen_kwargs"] == {"max_gen_toks": 8}


def test_compare_is_what_the_command_prints(evaluated, harness):
    found = compare(*evaluated)
    (rouge, exact) = found.comparisons
    assert (rouge.metric, exact.metric) == ("rougeL", "exact_match")
    assert exact.verdict == NO_DIFFERENCE
    told = harness("compare", *evaluated)
    assert told.stdout.rstrip() == str(found)
    assert json.loads(harness("compare", *evaluated, "--json").stdout) == found.to_json()


def test_score_takes_a_text_or_a_list_for_each_prediction():
    found = score(
        ["The answer is 4.", "Paris"],
        ["4", ["It is Paris.", "paris"]],
        metrics=["final_answer"],
    )
    assert found["rows"] == [
        {"rougeL": pytest.approx(0.4), "exact_match": 0.0, "final_answer": 1.0},
        {"rougeL": 1.0, "exact_match": 1.0, "final_answer": 0.0},
    ]
    assert (found["rougeL"], found["exact_match"], found["num_rows"]) == (70.0, 50.0, 2)


def test_score_agrees_with_the_command(harness, tmp_path):
    predictions, references = ["a b c", "", "x"], [["a c", "b"], ["y"], ["x"]]
    for name, key, values in (("p", "text", predictions), ("r", "output", references)):
        rows = [json.dumps({"id": row, key: value}) for row, value in enumerate(values)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = harness("score", "--predictions", "p.jsonl", "--references", "r.jsonl")
    theirs = json.loads(done.stdout)
    theirs["rows"] = [{k: v for k, v in row.items() if k != "id"} for row in theirs["rows"]]
    assert score(predictions, references) == theirs


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: score("a", ["a"]), "expected a list of texts"),
        (lambda: score(["a"], []), "1 predictions and 0 references"),
        (lambda: score([], []), "at least one"),
        (lambda: score(["a"], [[]]), r"references\[0\] is an empty list"),
        (lambda: score(["a"], [[3]]), r"references\[0\] must be a text"),
        (lambda: score(["a"], ["a"], metrics=["rouge"]), "did you mean 'rougeL'"),
        (lambda: compare("a"), "at least two systems, found 1"),
        (lambda: evaluate("m", "gsm8k", output_path="o", limit=1.5), "limit = 1.5"),
        (lambda: evaluate("m", "gsm8", output_path="o"), "did you mean 'gsm8k'"),
        (lambda: evaluate("m", "gsm8k", output_path="o", backend="hff"), "did you mean 'hf'"),
        (lambda: evaluate("m", "gsm8k", output_path="o", template="alpac"), "mean 'alpaca'"),
        (lambda: evaluate("m", "gsm8k", output_path="o", protocol="greed"), "mean 'greedy'"),
    ],
)
def test_mistakes_say_what_to_do_and_leave_nothing(call, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DistillensError, match=reason):
        call()
    assert list(tmp_path.iterdir()) == []


def example(name: str) -> str:
    """The code block of docs/evaluation.md that has this word in it."""
    text = (REPO / "docs/evaluation.md").read_text(encoding="utf-8")
    (found,) = [
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if name in code
    ]
    return found


@pytest.mark.parametrize("name", ["register_template", "register_backend"])
def test_the_documentation_s_examples_of_one_s_own_names_run(
    name, small_gpt2, tmp_path, own_names, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = example(name).replace("runs/quickstart/best", str(small_gpt2))
    # Eight answers of 256 tokens, five times, would take a minute.
    code = code.replace("limit=8)", "limit=2, gen_kwargs={'max_gen_toks': 4}, seeds=[1])")
    assert "limit=2" in code
    exec(compile(code, "docs/evaluation.md", "exec"), {"__name__": "example"})
    task = load_results(tmp_path / "out").tasks["gsm8k"]
    assert task.num_effective == 2
    if name == "register_template":
        assert task.samples[0].arguments["gen_args_0"]["arg_0"].startswith("Q: ")
        assert re.fullmatch("exam@[0-9a-f]{16}", task.fingerprint.protocol["template"])
    else:
        assert task.fingerprint.versions["backend"] == "parrot"
        assert task.samples[0].num_tokens == [8]


def test_a_backend_without_log_likelihoods_says_so(
    small_gpt2, small_benchmark, tmp_path, own_names
):
    class Silent(eval_harness.Backend):
        name = "silent"

        def generate(self, requests, sampling, *, done=frozenset()):
            for index in set(range(len(requests))) - done:
                yield eval_harness.Answer(index, [], "stop")

    register_backend("silent", Silent)
    asked = {"output_path": tmp_path / "out", "include_path": small_benchmark, "limit": 2}
    with pytest.raises(DistillensError, match=r"--model_args devise: .*did you mean"):
        evaluate(small_gpt2, "small", backend="hf", model_args={"devise": "cpu"}, **asked)
    with pytest.raises(DistillensError, match="--model silent does not know it"):
        evaluate(small_gpt2, "small", backend="silent", model_args={"beams": 2}, **asked)
    with pytest.raises(DistillensError, match="silent computes no log-likelihoods"):
        evaluate(small_gpt2, "small", backend="silent", loglikelihood=True, **asked)


@pytest.mark.parametrize("name", ["hf", "vllm", ""])
def test_our_own_backends_are_not_replaced(name):
    before = dict(BACKENDS)
    with pytest.raises(DistillensError, match="choose another name"):
        register_backend(name, eval_harness.Backend)
    assert before == BACKENDS


def test_the_public_names_stand_in_the_three_places():
    tree = ast.parse((REPO / "eval_harness/__init__.py").read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: module for module, names in eval_harness._HOMES.items() for name in names}
    assert typed == lazy
    assert sorted(eval_harness.__all__) == sorted(lazy)
    for name in eval_harness.__all__:
        assert getattr(eval_harness, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        eval_harness.evaluat  # noqa: B018


def test_names_load_only_what_they_need():
    code = (
        "import sys; from eval_harness import (BACKENDS, METRICS, PROTOCOLS, TEMPLATES, evaluate, "
        "compare, score, make_protocol, register_backend, register_template)\n"
        "assert list(BACKENDS) and list(METRICS)\n"
        "print([name for name in ('torch', 'transformers', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
