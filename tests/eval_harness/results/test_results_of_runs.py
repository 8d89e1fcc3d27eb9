"""What `eval-harness run` leaves can be compared: ids, metrics and folders of its results."""

import json
import shutil

import pytest

from eval_harness.cli import main
from eval_harness.comparison.compare import compare_loaded
from eval_harness.comparison.systems import load_systems
from eval_harness.results.folder import load_results

GREEDY = ("--protocol", "greedy", "--gen_kwargs", "max_gen_toks=6", "--device", "cpu")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [
        {"id": None, "instruction": "What is 2 + 2?", "output": "2 + 2 = 4\n#### 4"},
        {"id": None, "instruction": "What is 1 + 2?", "output": "1 + 2 = 3\n#### 3"},
        {"id": "own", "instruction": "What is 1 + 1?", "output": "1 + 1 = 2\n#### 2"},
        {"instruction": "What is 1 + 0?", "output": "1 + 0 = 1\n#### 1"},
    ]


@pytest.fixture(scope="module")
def task(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("task")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    metrics = "[rougeL, exact_match, final_answer]"
    (folder / "sums.yaml").write_text(f"task: sums\npath: rows.jsonl\nmetrics: {metrics}\n")
    return folder / "sums.yaml"


def run(model, task, out, *more) -> None:
    arguments = ["run", "--model", "hf", "--model_args", f"pretrained={model}"]
    assert main([*arguments, "--tasks", str(task), "--output_path", str(out), *GREEDY, *more]) == 0


def test_rows_with_null_ids_go_by_their_index_and_can_be_compared(
    small_gpt2, small_llama, task, tmp_path
):
    for model in (small_gpt2, small_llama):
        run(model, task, tmp_path / model.name, "--loglikelihood")
    systems = load_systems([tmp_path / small_gpt2.name, tmp_path / small_llama.name])
    samples = systems[0].samples["sums"]
    assert [sample.row_id for sample in samples] == ["0", "1", "own", "3"]
    assert all(sample.extra["reference_nll"] for sample in samples)


def test_what_predict_only_left_out_is_scored_by_all_metrics_of_the_task(
    small_gpt2, small_llama, task, tmp_path
):
    run(small_gpt2, task, tmp_path / "a", "--predict_only")
    run(small_llama, task, tmp_path / "b")
    result = compare_loaded(load_systems([tmp_path / "a", tmp_path / "b"])).to_json()
    metrics = [comparison["metric"] for comparison in result["comparisons"]]
    assert metrics == ["rougeL", "exact_match", "final_answer"]
    assert not any("not compared" in note for note in result["notes"])


def test_a_model_named_by_dots_is_written_below_the_output_path(
    small_gpt2, task, tmp_path, monkeypatch
):
    shutil.copytree(small_gpt2, tmp_path / "m")
    (tmp_path / "m" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "m" / "sub")
    run("..", task, "results/out", "--limit", "1")
    assert [path.name for path in (tmp_path / "m" / "sub" / "results").iterdir()] == ["out"]
    assert load_results("results/out").model_name == ".."
