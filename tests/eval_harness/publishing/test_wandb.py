"""--wandb_args with wandb itself, offline: its files, and those of lm-eval's own logger."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from result_samples import make_results, make_samples, make_task
from wandb_files import logged, records, table

from eval_harness.cli import main
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.publishing.hub import HubTarget
from eval_harness.publishing.publications import Publications
from eval_harness.publishing.wandb_logger import WandbLogger
from eval_harness.results.folder import load_results, write_results

wandb = pytest.importorskip("wandb", reason="wandb is not installed (it is in the dev extra)")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def written(tmp_path):
    """The results file of a run of two tasks."""
    tasks = [
        make_task(name, make_samples([["a", "b"], ["b", "c"]], references=[["a"], ["c"]]))
        for name in ("dolly", "self_inst")
    ]
    metrics = [{"metric": name, "aggregation": "mean"} for name in ("rougeL", "exact_match")]
    for task in tasks:
        task.config |= {"metric_list": metrics, "output_type": "generate_until"}
    return write_results(make_results("org/model", *tasks), tmp_path / "out")


def logger(folder, **given):
    return WandbLogger.of({"mode": "offline", **given}, {"stage": 2}, output_path=folder)


def test_what_is_logged_is_what_lm_evals_logger_logs(written, tmp_path):
    from lm_eval.loggers.wandb_logger import WandbLogger as TheirLogger

    results = load_results(written)
    out = tmp_path / "out"
    line = logger(out, project="p", name="0010").log(results, written)
    assert line.startswith(f"logged to Weights & Biases: {out}/wandb/offline-run-")
    theirs = TheirLogger({"project": "p", "mode": "offline", "dir": str(tmp_path)}, {"stage": 2})
    theirs.post_init(results.to_json())
    theirs.log_eval_result()
    samples = {name: [sample.to_json() for sample in task.samples]
               for name, task in results.tasks.items()}  # fmt: skip
    for rows in samples.values():
        for row in rows:  # in memory, lm-eval has the arguments as tuples
            row["arguments"] = [tuple(row["arguments"]["gen_args_0"].values())]
    theirs.log_eval_samples(samples)
    theirs.run.finish()
    our, their = logged(out), logged(tmp_path)
    assert set(our["history"]) == set(their["history"])
    tables = [key[:-5] for key in their["history"] if key.endswith(".path")]
    names = ["dolly_eval_results", "evaluation/eval_results", "self_inst_eval_results"]
    assert sorted(tables) == names
    for key, value in their["history"].items():
        if not key.startswith(tuple(tables)):
            assert our["history"][key] == value, key
    for key in tables:
        mine, other = (
            table(folder, found["history"][f"{key}.path"])
            for folder, found in ((out, our), (tmp_path, their))
        )
        assert mine == other, key
    assert our["summary"]["dolly/alias"] == their["summary"]["dolly/alias"] == "dolly"
    assert our["config"]["stage"] == 2
    for key in ("task_configs", "cli_configs"):
        assert our["config"][key] == their["config"][key]
    assert our["artifacts"] == their["artifacts"]
    assert set(our["artifacts"]) == {"results", "dolly", "self_inst"}


def test_rows_without_references_have_no_scores_in_the_table(tmp_path):
    samples = make_samples([["a", "b"], ["b", "c"]], references=[[], ["c"]])
    path = write_results(make_results("org/model", make_task("mine", samples)), tmp_path / "out")
    logger(tmp_path / "out").log(load_results(path), path)
    found = logged(tmp_path / "out")
    rows = table(tmp_path / "out", found["history"]["mine_eval_results.path"])
    assert rows["columns"][-2:] == ["rougeL", "exact_match"]
    assert [row[3] for row in rows["data"]] == ["", "c"]
    assert [row[-1] for row in rows["data"]] == [None, 50]


def test_files_of_wandb_are_below_the_output_path(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger(tmp_path / "out").log(load_results(written, samples=False), written)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not [key for key in logged(tmp_path / "out")["history"] if "_eval_results" in key
                and not key.startswith("evaluation/")]  # fmt: skip
    # They are no results of a model.
    assert load_results(tmp_path / "out").tasks.keys() == {"dolly", "self_inst"}


def test_a_token_of_the_command_line_is_not_sent(written, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval-harness", "--hf_hub_log_args", "token=hf_secret", "x"])
    sent = Publications(WandbLogger({"mode": "offline", "dir": str(tmp_path)}, secret="hf_secret"))
    sent.send(load_results(written), written)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"--hf_hub_log_args" in file.read_bytes()
    for path in tmp_path.glob("wandb/**/*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes(), path
    assert "token=hf_secret" in sys.argv


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"projct": "a"}, "projct: not known; did you mean 'project'.*WANDB_... variables"),
        ({"settings": {}}, "settings: not known"),
        ({"project": 7}, "project = 7, expected a text; put it in quotes"),
        ({"mode": "off"}, "mode = 'off', expected one of online, offline, disabled, shared"),
        ({"step": -1}, "step = -1, expected an integer of at least 0"),
        ({"tags": "a"}, r"tags = 'a', expected a list of texts: tags=\[\"a\",\"b\"\]"),
        ({"force": 1}, "force = 1, expected true or false"),
        ({"mode": "offline", "project": "a/b"}, r"project = 'a/b': wandb refuses it \(Invalid"),
        ({"mode": "offline", "id": "a?"}, r"id = 'a\?': wandb refuses it \(Run ID cannot"),
        ({"mode": "offline", "tags": [""]}, r"tags = \[''\]: wandb refuses it \(.*is empty"),
        ({"mode": "offline", "resume": "now"}, r"resume = 'now': wandb refuses it .*'allow'"),
        ({"project": "a"}, "nobody is logged in.*wandb login.*mode=offline"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(given, message, tmp_path):
    with pytest.raises(DistillensError, match=f"^--wandb_args.*{message}"):
        WandbLogger.of(given, {}, output_path=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_wandb_the_line_that_installs_it_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    least = ["run", "--model", "hf", "--model_args", "pretrained=x", "--tasks", "gsm8k"]
    least += ["--output_path", str(tmp_path / "out")]
    assert main([*least, "--wandb_args", "project=a"]) == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert main([*least, "--wandb_config_args", "a=b"]) == 2
    assert "--wandb_config_args without --wandb_args" in capsys.readouterr().err


def test_one_id_is_not_for_several_systems(tmp_path, capsys):
    given = ["run", "--model", "hf", "--tasks", "gsm8k", "--output_path", str(tmp_path / "out")]
    given += ["--systems", "a", "b", "--wandb_args", "mode=offline", "id=x"]
    assert main(given) == 2
    assert "id with --systems: each system is a run of its own" in capsys.readouterr().err


def test_a_failure_keeps_the_results_and_says_how_to_log_them(written, tmp_path):
    # Names of wandb have at most 128 characters; of this one it hears when the run begins.
    right = logger(tmp_path)
    wrong = replace(right, init={**right.init, "project": "p" * 200})
    with pytest.raises(RunFailure, match="the same command logs again without gen") as error:
        wrong.log(load_results(written), written)
    assert str(written) in str(error.value)
    assert "\n" not in str(error.value)
    assert written.is_file()


def test_two_failures_are_both_told_and_what_was_sent_too(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    hub = HubTarget(results_repo="lab/results", samples_repo=None)
    right = logger(tmp_path)
    wrong = replace(right, init={**right.init, "project": "p" * 200})
    results = load_results(written)
    with pytest.raises(
        RunFailure, match=r"the upload to lab/results.* failed.*; --wandb_args: not"
    ):
        Publications(wrong, hub).send(results, written)
    with pytest.raises(RunFailure, match=r"the upload to lab/.*; logged to Weights & Biases: "):
        Publications(right, hub).send(results, written)


def test_the_command_logs_a_run(small_gpt2, small_benchmark, tmp_path, capsys):
    flags = tmp_path / "flags.yaml"
    flags.write_text("wandb_args: {mode: offline, tags: [a, b]}\nwandb_config_args: stage=2\n")
    command = ["run", "--model", "hf", "--model_args", f"pretrained={small_gpt2}"]
    command += ["--tasks", "small", "--include_path", str(small_benchmark), "--limit", "2"]
    command += ["--protocol", "greedy", "--gen_kwargs", "max_gen_toks=4", "--device", "cpu"]
    command += ["--config", str(flags), "--output_path", str(tmp_path / "out")]
    assert main([*command, "--wandb_args", "name=1e3", "mode=offline"]) == 0
    assert "logged to Weights & Biases" in capsys.readouterr().err
    task = load_results(tmp_path / "out").tasks["small"]
    found = logged(tmp_path / "out")
    assert found["history"]["small/rougeL"] == task.metrics["rougeL,none"]
    (run,) = [record.run for record in records(tmp_path / "out") if record.run.run_id]
    assert run.display_name == "1e3"
    assert "wandb" not in Path(task.source).read_text(encoding="utf-8")
