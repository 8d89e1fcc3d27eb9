"""What a run measures of itself: files, its share of the time, and that nothing else changes."""

import json
import os
import signal
import sys

import pytest
import torch
import yaml
from forked_run import forked, kill_after_states, quick_recipe, what_it_left
from run_process import change
from tiny_run import ASSETS, tiny_recipe

from distillens_plugin.lens.translators import save_translators
from distillens_plugin.storage.kept_state import FORM
from distillens_plugin.storage.manifest import write_manifest
from distillens_plugin.training import closing, lifecycle
from distillens_plugin.training.report_budget import Budget

EVERY = {"page": False, "max_share": 1}
COLUMNS = ("entropy", "kl_from_final", "true_rank", "top1")


def lines(folder, name):
    path = folder / name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n") if line]


def steps(folder, name="lens.jsonl"):
    return [line["step"] for line in lines(folder, name)]


def summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def ran(path, *arguments):
    """What a run in a process of its own said, and its folder."""
    done = forked(path, *arguments, output=path.parent / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    return path.parent / "out", done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two epochs of 3 steps with a validation after each step, all of them measured; and a page."""
    path = tiny_recipe(tmp_path_factory.mktemp("measured"), report={"max_share": 1})
    change(path, "train.num_epochs", 2)
    change(path, "train.eval_every", 1)
    return ran(path)


def test_the_lens_reads_before_at_each_validation_and_after(measured):
    folder, _ = measured
    assert steps(folder) == [0, 1, 2, 3, 4, 5, 6]
    first, *others = lines(folder, "lens.jsonl")
    assert first["teacher"]["layers"] == [0, 1, 2, 3, 4]
    assert not any("teacher" in line for line in others), "it does not change"
    for line in (first, *others):
        assert line["norm"] == "final", "that of the lens term"
        assert line["student"]["layers"] == [0, 1, 2]
        assert line["confidence"]["pairs"] == [[1, 2], [2, 4]]
        assert line["num_positions"] == first["num_positions"] > 1
        assert line["seconds"] > 0
        assert all(len(line["student"][name]) == 3 for name in COLUMNS)
        assert all(len(values) == 2 for values in line["confidence"].values())
        # The last layer through the final norm is the model's own distribution.
        assert line["student"]["kl_from_final"][-1] == pytest.approx(0, abs=1e-6)
    assert others[-1]["student"]["entropy"] != first["student"]["entropy"]


def test_the_teacher_is_read_through_its_translators(tmp_path, measured):
    folder, _ = measured
    file = tmp_path / "tuned.safetensors"
    maps = {k: (torch.eye(32), torch.ones(32)) for k in (2,)}
    save_translators(file, maps, num_layers=4, notes={})
    path = tiny_recipe(tmp_path / "run", report={"max_share": 1, "page": False})
    lens = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs"
    change(path, f"{lens}.teacher_translators", str(file))
    tuned, _ = ran(path)
    plain, through = (lines(each, "lens.jsonl")[0]["teacher"] for each in (folder, tuned))
    same = [a == b for a, b in zip(plain["entropy"], through["entropy"], strict=True)]
    assert same == [True, True, False, True, True]


def test_answers_are_kept_through_training(measured):
    folder, shown = measured
    assert steps(folder, "answers.jsonl") == [1, 2, 3, 4, 5, 6]
    last = lines(folder, "answers.jsonl")[-1]
    assert last.keys() == {"step", "row", "prompt", "answer", "reference"}
    (row,) = (ASSETS / "valid.jsonl").read_text(encoding="utf-8").split("\n")[:1]
    assert last["row"] == json.loads(row).get("id", "0")
    assert json.loads(row)["instruction"] in last["prompt"]
    assert shown.count("reference:\n") == 1


def test_the_summary_and_a_line_say_what_it_took(measured):
    folder, shown = measured
    found = summary(folder)
    assert (
        0
        < found["report_share"]
        == pytest.approx(found["report_seconds"] / found["seconds"], abs=0.1)
    )
    assert f"{100 * found['report_share']:.1f} % of the run" in shown
    assert "measured itself for" in shown
    page = folder / "report" / "report.html"
    assert f"report: {page} (" in shown
    assert "entropy" in page.read_text(encoding="utf-8")


def test_a_run_learns_the_very_same_whether_or_not_it_measures(tmp_path, measured):
    """The student has dropout: a number drawn more, or a module left in eval mode, would show."""
    folder, _ = measured
    path = tiny_recipe(tmp_path, report=False)
    for key, value in {"num_epochs": 2, "eval_every": 1}.items():
        change(path, f"train.{key}", value)
    change(path, "models.teacher_model.name_or_path", str(folder.parent / "teacher"))
    done = forked(path, output=tmp_path / "out", before=no_matplotlib)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "note: no" not in done.stdout, "nothing is drawn"
    quiet = what_it_left(tmp_path / "out")
    assert "answers.jsonl" not in quiet
    assert "readings" not in quiet
    assert not {"report_seconds", "report_share"} & summary(tmp_path / "out").keys()
    assert "measured itself" not in done.stdout
    left = what_it_left(folder)
    assert left["records"] == quiet["records"]
    for name in ("best/model.safetensors", "last/model.safetensors"):
        assert left[name] == quiet[name]


def test_without_a_share_of_the_time_it_reads_before_and_after_alone(tmp_path):
    path = tiny_recipe(tmp_path, report={"page": False, "max_share": 0.0})
    out, shown = ran(path, "--set", "train.eval_every=1")
    assert steps(out) == [0, 3]
    assert steps(out, "answers.jsonl") == [3], "the end of a run shows them anyway"
    assert "read before and after, whatever that takes" in shown


def test_a_page_that_cannot_be_written_is_a_note(tmp_path):
    path = tiny_recipe(tmp_path, report={"lens": False, "answers": False})
    done = forked(path, output=tmp_path / "out", before=damaged_in_the_end)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "note: no report of the run was written: DistillensError: " in done.stdout
    assert summary(tmp_path / "out")["num_steps"] == 3
    assert not (tmp_path / "out" / "lens.jsonl").exists()


def damaged_in_the_end():
    """Someone else writes into a file that the page reads."""
    close_run = lifecycle.close_run

    def damaged(folder, *arguments, **settings):
        (folder / "answers.jsonl").write_text("no\nJSON\n", encoding="utf-8")
        close_run(folder, *arguments, **settings)

    lifecycle.close_run = damaged


def no_matplotlib():
    """Importing it raises."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]
    sys.modules["matplotlib"] = None


def test_a_resumed_run_writes_later_lines_again_and_keeps_the_others(tmp_path):
    path = quick_recipe(tmp_path, samples__num_rows=1, samples__max_new_tokens=4)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    assert forked(path, **place).returncode == 0
    whole = what_it_left(tmp_path / "out")
    assert [line["step"] for line in whole["readings"]] == [0, 2, 4, 6]
    os.rename(tmp_path / "out", tmp_path / "whole")
    assert forked(path, **place, before=kill_after_states(2)).returncode == -signal.SIGKILL
    for name in ("lens.jsonl", "answers.jsonl"):
        with (tmp_path / "out" / name).open("a", encoding="utf-8") as file:
            file.write('{"step": 5, "half a li')
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert what_it_left(tmp_path / "out") == whole
    for mine, theirs in zip(
        *(lines(tmp_path / n, "lens.jsonl") for n in ("out", "whole")), strict=True
    ):
        assert mine | {"seconds": 0} == theirs | {"seconds": 0}


def test_a_run_killed_while_it_answers_at_its_end_has_its_last_answers(tmp_path):
    path = tiny_recipe(tmp_path, report={**EVERY, "lens": False})
    change(path, "train.eval_every", 1)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    assert forked(path, **place, before=kill_in_last_answers).returncode == -signal.SIGKILL
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert steps(tmp_path / "out", "answers.jsonl") == [1, 2, 3]
    assert summary(tmp_path / "out")["num_steps"] == 3
    said = next(line for line in done.stdout.split("\n") if line.startswith("measured itself"))
    assert said.endswith("answers.jsonl"), "there is no lens.jsonl"


def kill_in_last_answers():
    closing.sample_answers = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)


def test_a_state_of_an_earlier_version_is_resumed(tmp_path):
    """It has no lens.jsonl, and its standing says nothing of measuring."""
    path = quick_recipe(tmp_path)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    killed = forked(path, "--set", "report=false", **place, before=kill_after_states(1))
    assert killed.returncode == -signal.SIGKILL
    state = tmp_path / "out" / "state"
    forget(state / "standing.json", "report_seconds")
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    first, *others = lines(tmp_path / "out", "lens.jsonl")
    assert [first["step"], *(line["step"] for line in others)] == [4, 6]
    assert "teacher" in first, "its first line has the teacher"
    assert not any("teacher" in line for line in others)


def forget(path, key):
    """Removes a key of a state's JSON file, and renews the manifest that watches over it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[key]
    path.write_text(json.dumps(content), encoding="utf-8")
    (path.parent / "manifest.json").unlink()
    write_manifest(path.parent, FORM)


def variant(path, name):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    terms = recipe["train"]["criterion"]["kwargs"]["sub_terms"]
    if name == "without a teacher":
        recipe["models"] = {"model": recipe["models"]["student_model"]}
        recipe["models"]["model"]["tokenizer"] = recipe["models"]["model"].get(
            "tokenizer", str(ASSETS / "tokenizer")
        )
        recipe["train"]["criterion"]["kwargs"]["sub_terms"] = {
            "ce": {"criterion": {"key": "distillens.cross_entropy"}, "weight": 1.0}
        }
    elif name == "without validation":
        del recipe["datasets"]["validation"]
    elif name == "without a lens term":
        del terms["lens"]
    elif name == "packed rows":
        recipe["train"]["train_data_loader"] = {"packing": True, "kwargs": {"batch_size": 1}}
    elif name == "streamed":
        recipe["datasets"]["train"]["streaming"] = True
        recipe["train"] |= {"num_epochs": None, "num_steps": 3, "steps_per_epoch": 3}
        recipe["datasets"]["train"].pop("num_rows")
        del recipe["datasets"]["validation"]
    elif name == "bf16":
        recipe["mixed_precision"] = "bf16"
    elif name == "LoRA":
        recipe["models"]["student_model"] |= {"lora": {"r": 2, "target_modules": ["c_attn"]}}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


VARIANTS = ("without a teacher", "without validation", "without a lens term", "packed rows")


@pytest.mark.parametrize("name", [*VARIANTS, "streamed", "bf16", "LoRA"])
def test_runs_of_all_kinds_are_measured(tmp_path, name):
    path = tiny_recipe(tmp_path, report=EVERY)
    variant(path, name)
    out, _ = ran(path)
    found = lines(out, "lens.jsonl")
    assert steps(out) == [0, summary(out)["num_steps"]]
    has_teacher = name != "without a teacher"
    assert ("teacher" in found[0]) is ("confidence" in found[0]) is has_teacher
    if name == "without a lens term":
        assert found[0]["confidence"]["pairs"] == [[1, 2], [2, 4]], "equal relative depth"
        assert found[0]["norm"] == "identity"
    assert bool(lines(out, "answers.jsonl")) is (name not in ("without validation", "streamed"))


def test_of_a_teacher_that_is_not_loaded_nothing_is_read(tmp_path):
    path = tiny_recipe(tmp_path, teacher_cache={"path": str(tmp_path / "cache")}, report=EVERY)
    ran(path)
    assert "teacher" in lines(tmp_path / "out", "lens.jsonl")[0], "it ran to fill the cache"
    _, shown = ran(path, "--overwrite")
    assert "the lens reads the student alone" in shown
    for line in lines(tmp_path / "out", "lens.jsonl"):
        assert not {"teacher", "confidence"} & line.keys()


def test_the_budget_grows_with_the_run():
    elapsed = [0.0]
    budget = Budget(0.1, lambda: elapsed[0], torch.device("cpu"))
    assert not budget.allows(0.5)
    elapsed[0] = 10.0
    assert budget.allows(1.0)
    budget.seconds = 0.6
    assert budget.share == pytest.approx(0.06)
    assert budget.allows(0.3)
    assert not budget.allows(0.5)
    assert not budget.allows(float("nan")), "what is not known does not fit"
    assert Budget(1.0, lambda: 0.0, torch.device("cpu")).allows(99.0), "1 is no limit"
    with budget.spending() as spent:
        now = spent()
    assert 0.6 <= 0.6 + now <= budget.seconds
