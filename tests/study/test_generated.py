"""A study's generated answers, and what depends on them, go with the teacher that gave them."""

import json

import pytest
from safetensors.torch import load_file, save_file
from tiny_study import METHODS, fake_run, tiny_study

from distillens_plugin.study import generated
from distillens_plugin.study.evaluation import evaluation_command, evaluation_folder, is_evaluated
from distillens_plugin.study.generated import (
    are_generated,
    check_generation,
    generated_file,
    generation_command,
)
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from distillens_plugin.study.report.results import collect
from distillens_plugin.study.state import is_trained
from eval_harness.errors import DistillensError

GENERATE = {"model": "hf", "gen_kwargs": "max_gen_toks=8"}


def study_of(folder, **changes):
    methods = {
        "sft": [str(METHODS / "sft.yaml")],
        "seqkd": {"fragments": [str(METHODS / "seqkd.yaml")], "generate": GENERATE},
    }
    return load_study(tiny_study(folder, methods=methods, evaluation=None, **changes))


def answer(study):
    """As the command does, without a model: the record first, then the answers."""
    path = generated_file(study, "seqkd")
    path.parent.mkdir(parents=True, exist_ok=True)
    command = generation_command(study, "seqkd")
    assert command.before is not None
    command.before()
    row = {"id": "1", "instruction": "q", "input": "", "output": "a", "generated_by": "t"}
    path.write_text(json.dumps(row) + "\n")


def train_teacher_again(folder):
    path = folder / "teacher" / "model.safetensors"
    weights = {name: value * 1.5 for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def answered(tmp_path):
    study = study_of(tmp_path)
    answer(study)
    return study


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"model_args": "pretrained=other"},
            "model_args: pretrained: the recipe's teacher answers",
        ),
        ({"model_args": "dtype=float99"}, "dtype = 'float99'"),
        ({"model_args": "nothing=1"}, "nothing"),
        ({"gen_kwargs": "trust_remote_code=True"}, "trust_remote_code"),
        ({"gen_kwargs": "top_p=0.5"}, "top_p"),
    ],
)
def test_settings_that_generation_would_refuse_are_refused_first(tmp_path, settings, words):
    seqkd = {"fragments": [str(METHODS / "seqkd.yaml")], "generate": {"model": "hf"} | settings}
    methods = {"sft": [str(METHODS / "sft.yaml")], "seqkd": seqkd}
    study = load_study(tiny_study(tmp_path, methods=methods, evaluation=None))
    with pytest.raises(DistillensError, match=r"methods\.seqkd\.generate") as raised:
        check_generation(study)
    assert words in str(raised.value)


def test_settings_that_generation_takes_pass(tmp_path):
    check_generation(study_of(tmp_path))


def test_answers_under_the_same_settings_are_kept(answered, tmp_path):
    assert are_generated(answered, "seqkd", overwrite=False)
    # What only concerns training, such as the study's number of steps, changes no answer.
    assert are_generated(study_of(tmp_path, seeds=[3]), "seqkd", overwrite=True)


def test_answers_of_an_older_teacher_are_refused_and_made_again_with_overwrite(answered, tmp_path):
    run = make_run(answered, "main", "seqkd", 1)
    fake_run(run.folder, run.fingerprint, losses={3: 4.0})
    note = {"fingerprint": run.fingerprint, "resolved": run.resolved}
    (run.folder / "run.json").write_text(json.dumps(note))
    assert is_trained(run, overwrite=False)
    train_teacher_again(tmp_path)
    study = study_of(tmp_path)
    with pytest.raises(DistillensError, match=r"seqkd\.jsonl: .*name_or_path was .* and is .*over"):
        are_generated(study, "seqkd", overwrite=False)
    assert not are_generated(study, "seqkd", overwrite=True)
    # Runs that learned from them go with them, in the report too.
    again = make_run(study, "main", "seqkd", 1)
    assert not is_trained(again, overwrite=True)
    assert again.resolved["generated"] != run.resolved["generated"]
    with pytest.raises(DistillensError, match="trained under another recipe"):
        is_trained(again, overwrite=False)
    assert "main/seqkd/seed_1" in collect(study).missing


@pytest.mark.parametrize(
    "change",
    [
        {"gen_kwargs": "max_gen_toks=9"},
        {"model": "vllm"},
        {"model_args": "dtype=float32"},
    ],
)
def test_answers_under_other_generation_settings_are_refused(answered, tmp_path, change):
    study = study_of(tmp_path)
    study.methods["seqkd"].generate = study.methods["seqkd"].generate.model_copy(update=change)
    with pytest.raises(DistillensError, match=r"generate\.\w+.* was "):
        are_generated(study, "seqkd", overwrite=False)


@pytest.mark.parametrize("key", ["datasets.train.num_rows", "datasets.train.max_length"])
def test_answers_to_other_prompts_are_refused(answered, tmp_path, key):
    study = study_of(tmp_path)
    study.set[key] = 250 if "length" in key else 7
    with pytest.raises(DistillensError, match=f"{key} was"):
        are_generated(study, "seqkd", overwrite=False)


def test_answers_that_no_record_tells_of_are_refused(answered):
    generated._record(generated_file(answered, "seqkd")).unlink()
    with pytest.raises(DistillensError, match="its record is missing"):
        are_generated(answered, "seqkd", overwrite=False)


def test_a_generation_that_was_cut_off_leaves_no_answers_of_before(answered):
    command = generation_command(answered, "seqkd")
    assert command.before is not None
    command.before()
    assert not are_generated(answered, "seqkd", overwrite=False)


def test_a_teacher_in_the_working_folder_counts_by_content_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fingerprints = set()
    for number in range(2):
        if number:
            train_teacher_again(tmp_path)
        fingerprints.add(make_run(study_of(tmp_path), "main", "sft", 1).fingerprint)
    study = study_of(tmp_path)
    assert study.set["models.student_model.tokenizer"] == "teacher"
    assert len(fingerprints) == 2


def test_where_a_teacher_cache_lies_and_what_it_holds_changes_no_fingerprint(tmp_path):
    def fingerprint(**settings):
        study = load_study(tiny_study(tmp_path))
        study.set["teacher_cache"] = {"path": str(tmp_path / "cache"), **settings}
        return make_run(study, "main", "lens", 1).fingerprint

    before = fingerprint()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "shard").write_text("filled")
    assert fingerprint() == before
    assert fingerprint(teacher="states_only", max_gb=3.0) == before
    assert fingerprint(dtype="int8") != before


def test_an_evaluation_of_a_run_that_was_trained_again_is_made_again(tmp_path):
    study = load_study(tiny_study(tmp_path))
    run = make_run(study, "main", "sft", 1)
    fake_run(run.folder, run.fingerprint, losses={3: 4.0})
    command = evaluation_command(run, "greedy")
    assert command.before is not None
    assert command.after is not None
    command.before()
    command.after(2.0)
    assert is_evaluated(run, "greedy", overwrite=False)
    summary = run.train_folder / "summary.json"
    summary.write_text(summary.read_text().replace("12.0", "12.5"))
    assert not is_evaluated(run, "greedy", overwrite=False)
    assert evaluation_folder(run, "greedy").is_dir()


@pytest.mark.parametrize("changed", ["bench.yaml", "asked.jsonl", "teacher/tokenizer.json"])
def test_files_that_an_evaluation_reads_count_by_content(tmp_path, monkeypatch, changed):
    monkeypatch.chdir(tmp_path)
    row = {"id": "1", "instruction": "q", "input": "", "output": "a"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "bench.yaml").write_text("task: mine\npath: ./asked.jsonl\n")
    asked = {"tasks": ["./bench.yaml"], "model_args": {"tokenizer": "./teacher"}}
    run = make_run(load_study(tiny_study(tmp_path, evaluation=asked)), "main", "sft", 1)
    fake_run(run.folder, run.fingerprint, losses={3: 4.0})
    command = evaluation_command(run, "greedy")
    # It runs in the run's folder.
    assert f"--tasks={tmp_path / 'bench.yaml'}" in command.arguments
    assert f"tokenizer={tmp_path / 'teacher'}" in " ".join(command.arguments)
    assert command.before is not None
    assert command.after is not None
    command.before()
    command.after(2.0)
    assert is_evaluated(run, "greedy", overwrite=False)
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    with pytest.raises(DistillensError, match="evaluated with other settings"):
        is_evaluated(run, "greedy", overwrite=False)
    assert not is_evaluated(run, "greedy", overwrite=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", r"summary\.json:1:2: not JSON"),
        ("summary.json", "{}", r"summary\.json: no key num_steps"),
        ("summary.json", '{"num_steps": "3"}', r"summary\.json: num_steps = '3'"),
        ("metrics.jsonl", '{"step": 1, "validation_loss": "x"}', r"metrics\.jsonl:1: valid"),
        ("metrics.jsonl", "[]", r"metrics\.jsonl:1:1: found a JSON array"),
        ("../run.json", "[]", r"run\.json: found no JSON object"),
    ],
)
def test_damaged_records_are_named(tmp_path, name, content, message):
    study = load_study(tiny_study(tmp_path, evaluation=None))
    for seed in (1, 2):
        run = make_run(study, "main", "sft", seed)
        fake_run(run.folder, run.fingerprint, losses={3: 4.0})
    (run.train_folder / name).write_text(content)
    with pytest.raises(DistillensError, match=message):
        collect(study)
