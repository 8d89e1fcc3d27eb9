"""`--list` and `--only`: a study run one by one, in any number of processes."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tiny_study import ENVIRONMENT, METHODS, REPO, fake_run, study_command, tiny_study

from distillens_plugin import cli
from distillens_plugin.commands import study as command
from distillens_plugin.study.load import load_study
from distillens_plugin.study.names import KINDS, names
from distillens_plugin.study.only import run_only
from distillens_plugin.study.plan import make_run
from distillens_plugin.study.runner import study_lock
from distillens_plugin.study.search import stage_runs
from eval_harness.errors import DistillensError


@pytest.fixture
def searched(tmp_path):
    """A study with two grids, answers to generate and equal compute; nothing is done."""
    return tiny_study(
        tmp_path,
        methods={
            "sft": [str(METHODS / "sft.yaml")],
            "seqkd": {
                "fragments": [str(METHODS / "seqkd.yaml")],
                "generate": {"model": "hf", "gen_kwargs": "max_gen_toks=8"},
            },
            "lens": {"tune": [{"lens_weight": [0.3, 0.5]}, {"lr": [1e-3]}]},
        },
        tune={"seeds": [7]},
        budget={"equal_compute": {"clock": "lens", "methods": ["sft"]}},
    )


def finish(study, stage, losses):
    for run, loss in zip(stage_runs(study, "lens", stage, {}), losses, strict=True):
        fake_run(run.folder, run.fingerprint, losses={3: loss})


def refusal(capsys, *arguments):
    """The one line of a command that is refused."""
    code = cli.main(["study", *map(str, arguments)])
    said = capsys.readouterr()
    assert code == 2, said
    assert said.err.count("\n") == 1
    return said.err


def test_the_names_are_those_of_all_that_a_study_does(searched):
    study = load_study(searched)
    grid = ["tune/lens/lens_weight=0.3/seed_7", "tune/lens/lens_weight=0.5/seed_7"]
    assert names(study, "generate") == ["generate/seqkd"]
    assert names(study, "tune") == grid
    assert names(study, "compute") == ["compute/sft/seed_1", "compute/sft/seed_2"]
    assert names(study, "main")[:3] == ["main/sft/seed_1", "main/sft/seed_2", "main/seqkd/seed_1"]
    evaluations = names(study, "evaluation")
    assert evaluations[1] == "main/sft/seed_1/evaluation/greedy"
    assert len(evaluations) == 2 * (6 + 2)
    finish(study, 0, [4.0, 3.0])
    assert names(study, "tune") == [*grid, "tune/lens/lens_weight=0.5,lr=0.001/seed_7"]


def test_list_prints_them_one_a_line(searched, capsys):
    assert cli.main(["study", str(searched), "--list", "main"]) == 0
    assert capsys.readouterr().out.split() == names(load_study(searched), "main")
    assert cli.main(["study", str(searched), "--list"]) == 0
    everything = [name for kind in KINDS for name in names(load_study(searched), kind)]
    assert capsys.readouterr().out.split() == everything
    assert command._KINDS == KINDS


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("main/sft/seed_3", ("no such run", "did you mean 'main/sft/seed_")),
        ("main/stf/seed_1", ("no such run", "did you mean 'main/sft/seed_1'")),
        ("nothing like it", ("no such run", "--list")),
        ("main/sft/seed_1/evaluation/greedy", ("needs main/sft/seed_1 first",)),
        ("main/seqkd/seed_1", ("needs generate/seqkd first", "--only generate/seqkd")),
        ("main/lens/seed_1", ("needs tune/lens/lens_weight=0.3/seed_7 first",)),
        ("tune/lens/lens_weight=0.3,lr=0.001/seed_7", ("needs tune/lens/lens_weight=0.3/seed_7",)),
        ("compute/sft/seed_1", ("needs tune/lens/lens_weight=0.3/seed_7 first",)),
    ],
)
def test_a_wrong_name_and_what_is_missing_first_are_refused_by_name(searched, capsys, name, parts):
    said = refusal(capsys, searched, "--only", name)
    for part in parts:
        assert part in said
    assert not list(searched.parent.glob("out/*/*/*/train"))


def test_equal_compute_waits_for_all_seeds_of_both_methods(searched, capsys):
    study = load_study(searched)
    finish(study, 0, [4.0, 3.0])
    (second,) = stage_runs(study, "lens", 1, {"lens_weight": 0.5})
    fake_run(second.folder, second.fingerprint, losses={3: 2.5})
    assert "needs main/lens/seed_1 first" in refusal(
        capsys, searched, "--only", "compute/sft/seed_1"
    )


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--only", "main/sft/seed_1", "--jobs", "2"], "--jobs with --only"),
        (["--only", "main/sft/seed_1", "--list"], "exclude each other"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(searched, capsys, flags, part):
    assert part in refusal(capsys, searched, *flags)


def test_two_runs_at_once_beside_neither_the_same_nor_a_whole_study(tmp_path, capsys):
    """Two runs as processes of their own, as in a batch system's array."""
    path = tiny_study(tmp_path, evaluation=None)
    names = ["main/sft/seed_1", "main/sft/seed_2"]
    running = [
        subprocess.Popen(
            study_command(path, "--only", name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
            cwd=REPO,
        )
        for name in names
    ]
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("out/main/sft/*/run.json"))) < 2:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in running)
            time.sleep(0.05)
        for process in running:
            process.send_signal(signal.SIGSTOP)  # they hold their locks while the others look

        study = load_study(path)
        with pytest.raises(DistillensError, match=r"--only main/sft/seed_1: .*in use by process"):
            run_only(study, names[0], None, overwrite=False)  # type: ignore[arg-type]
        with pytest.raises(DistillensError, match=r"a run of one \(--only\), works there"):
            study_lock(tmp_path / "out").acquire()
        capsys.readouterr()
        for process in running:
            process.send_signal(signal.SIGCONT)
        for name, process in zip(names, running, strict=True):
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
            assert f"[1/1] {name} done in" in said
    finally:
        for process in running:
            process.kill()
    assert cli.main(["study", str(path), "--only", names[0]]) == 0
    assert capsys.readouterr().out == f"{names[0]}: done already\n"


def test_the_array_script_of_the_page_does_the_run_of_its_number(tmp_path):
    path = tiny_study(tmp_path, evaluation=None)
    study = load_study(path)
    run = make_run(study, "main", "lens", 1)
    fake_run(run.folder, run.fingerprint, losses={3: 4.0})
    page = (REPO / "docs" / "scale.md").read_text(encoding="utf-8")
    (script,) = (
        block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "--only" in block
    )
    assert script.count("study=my_study.yaml") == 1
    programs = os.path.dirname(sys.executable)
    done = subprocess.run(
        ["bash", "-c", script.replace("my_study.yaml", str(path))],
        capture_output=True,
        text=True,
        env={
            **ENVIRONMENT,
            "SLURM_ARRAY_TASK_ID": "2",
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        },
        cwd=REPO,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "main/lens/seed_1: done already\n"
