"""What is never mixed into a cache: other teachers, rows and layers, and what it cannot keep."""

import json

import pytest
from cached_run import LENS, Run, cached_recipe, copy_of, folder_bytes
from run_process import change, distillens
from tiny_run import save_tiny_model

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main
from distillens_plugin.teacher_cache import attach_teacher_cache
from distillens_plugin.teacher_cache.plan import _row_ids
from eval_harness.errors import DistillensError


@pytest.mark.parametrize("states", [[["a"]], [1], None, {"a": 1}])
def test_a_fingerprint_of_other_types_is_refused_in_one_line(filled, tmp_path, capsys, states):
    path = copy_of(filled, tmp_path)
    file = tmp_path / "cache" / "fingerprint.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "states": states}), encoding="utf-8")
    assert main([str(path), "--validate"]) == 2
    assert "holds other states (teacher layers: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("teacher_cache.dtype", "int8", "teacher_cache.dtype: bfloat16 there, int8 here"),
        (f"{LENS}.layers.teacher", [1, 4], "output:transformer.h.0 output:transformer.h.3 here"),
        ("datasets.train.num_rows", 20, "training rows: "),
        ("datasets.train.template", "qwen", "template: alpaca there, qwen here"),
        ("mixed_precision", "bf16", "mixed_precision: no there, bf16 here"),
    ],
)
def test_a_cache_of_something_else_is_never_mixed_in(filled, dotted, value, expected):
    stored = folder_bytes(filled.folder / "cache")
    overrides = [f"{dotted}={json.dumps(value)}"]
    if dotted == "mixed_precision":
        # accelerate's state keeps one precision a process, so the recipe alone is looked at.
        experiment = Run(filled.folder / "recipe.yaml", cached=False).experiment
        experiment.recipe = load_recipe(str(filled.folder / "recipe.yaml"), overrides=overrides)
        with pytest.raises(DistillensError) as caught:
            attach_teacher_cache(experiment)
    else:
        with pytest.raises(DistillensError) as caught:
            Run(filled.folder / "recipe.yaml", overrides=overrides)
    assert expected in str(caught.value)
    assert "name another path or delete that folder" in str(caught.value)
    assert folder_bytes(filled.folder / "cache") == stored


def test_another_teacher_is_refused_in_one_line_with_exit_code_2(filled, tmp_path):
    path = copy_of(filled, tmp_path)
    save_tiny_model(tmp_path / "teacher", seed=2)
    done = distillens(path)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count("\n") == 1
    assert "teacher's weights: " in done.stderr
    assert str(tmp_path / "cache") in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_moved_teacher_is_the_same_teacher(filled, tmp_path):
    path = copy_of(filled, tmp_path)
    (tmp_path / "teacher").rename(tmp_path / "moved")
    run = Run(path, overrides=[f"models.teacher_model.name_or_path={tmp_path / 'moved'}"])
    run.close()
    assert "the teacher will not run" in run.cache.lines[-1]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    path = cached_recipe(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(DistillensError, match=r"is not a teacher cache \(it holds thesis\.tex\)"):
        Run(path)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["thesis.tex"]


def test_rows_that_share_an_id_are_refused(tmp_path):
    path = cached_recipe(tmp_path)
    data = tmp_path / "rows.jsonl"
    row = '{"id": "twin", "instruction": "a", "output": "b"}\n'
    data.write_text(row * 2, encoding="utf-8")
    with pytest.raises(DistillensError, match="2 training rows have the id 'twin'"):
        Run(path, overrides=[f"datasets.train.path={data}"])
    assert not (tmp_path / "cache").exists()


def test_a_term_that_reads_more_of_the_teacher_is_refused(tmp_path):
    path = cached_recipe(tmp_path)
    change(
        path,
        "train.criterion.kwargs.sub_terms.hint",
        {
            "criterion": {
                "key": "KDLoss",
                "kwargs": {
                    "student_module_path": "lm_head",
                    "student_module_io": "output",
                    "teacher_module_path": "lm_head",
                    "teacher_module_io": "output",
                    "temperature": 1.0,
                    "alpha": 0.5,
                },
            },
            "weight": 1.0,
        },
    )
    with pytest.raises(DistillensError, match=r"sub-term hint .* which the cache does not keep"):
        Run(path)


def test_a_teacher_that_returns_logits_is_refused(tmp_path):
    path = cached_recipe(tmp_path)
    change(path, "train.teacher", {"forward_proc": "distillens.forward_with_logits"})
    with pytest.raises(DistillensError, match=r"set train\.teacher\.forward_proc"):
        Run(path)


def test_rows_without_an_id_are_refused():
    with pytest.raises(DistillensError, match="r: training row 1 has no id, but the cache finds"):
        _row_ids([{"id": "a"}, {"input_ids": [1]}], "r")
