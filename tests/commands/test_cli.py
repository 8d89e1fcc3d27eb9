"""The entry point `distillens`, and the launchers that the README names."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import save_tiny_model, tiny_recipe

import distillens_plugin
from distillens_plugin import cli, run

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def call(*command):
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )


def test_hooks_prints_blocks_norm_and_head_of_a_model(tmp_path):
    save_tiny_model(tmp_path / "model")
    done = call("distillens_plugin.cli", "hooks", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    for part in ("transformer.h.3", "transformer.ln_f", "lm_head", "tied"):
        assert part in done.stdout, part


def test_hooks_of_a_model_that_is_not_there_is_one_line(tmp_path):
    done = call("distillens_plugin.cli", "hooks", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr


def test_run_is_the_same_command_under_both_names(tmp_path):
    path = tiny_recipe(tmp_path)
    for command in (("distillens_plugin.cli", "run"), ("distillens_plugin.run",)):
        done = call(*command, path, "--validate")
        assert done.returncode == 0, done.stderr
        assert "ok the layers of lens" in done.stdout


def test_accelerate_launch_runs_a_recipe(tmp_path):
    path = tiny_recipe(tmp_path)
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
    options = ("--mixed_precision", "no", "--dynamo_backend", "no")
    done = call(*launch, *options, "-m", "distillens_plugin.run", path, "--dry-run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "peak memory" in done.stdout


@pytest.mark.parametrize(
    "arguments", [(), ("nonsense",), ("run",), ("run", "a.yaml", "--seed", "x")]
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments):
    done = call("distillens_plugin.cli", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("program", "command"),
    [
        (cli.main, ["run"]),
        (cli.main, ["plan", "--memory", "80GB"]),
        (cli.main, ["cache"]),
        (cli.main, ["lens"]),
        (cli.main, ["lens-report"]),
        (run.main, []),
    ],
)
def test_a_fragment_without_its_flag_is_told_where_it_goes(capsys, program, command):
    for words in (["r.yaml", "methods/sft"], ["r.yaml", "--set", "seed=1", "methods/sft"]):
        with pytest.raises(SystemExit, match="2"):
            program([*command, *words])
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert "unrecognized arguments: methods/sft; a fragment goes after --with, " in line
        assert not command or line.startswith(f"distillens {command[0]}: ")
    # 3 may be what the unknown flag was to have.
    with pytest.raises(SystemExit, match="2"):
        program([*command, "r.yaml", "--sed", "3"])
    line = capsys.readouterr().err
    assert "unrecognized arguments: --sed 3" in line
    assert "--with" not in line


def test_a_check_and_a_trial_at_once_are_refused(tmp_path, capsys):
    assert cli.main(["run", str(tiny_recipe(tmp_path)), "--validate", "--dry-run"]) == 2
    assert "--dry-run: cannot be combined with --validate" in capsys.readouterr().err


def test_print_without_validate_is_refused(tmp_path):
    done = call("distillens_plugin.run", tiny_recipe(tmp_path), "--print")
    assert done.returncode == 2
    assert "--validate" in done.stderr


@pytest.mark.parametrize("package", ["distillens_plugin", "eval_harness"])
def test_a_face_names_its_commands_and_holds_nothing_else(package):
    face = importlib.import_module(f"{package}.cli")
    assert face.__file__ is not None
    assert len(Path(face.__file__).read_text(encoding="utf-8").splitlines()) < 60
    commands = {path.stem for path in Path(face.__file__).parent.glob("commands/*.py")}
    # What several commands share stands beside them.
    assert commands - {"__init__", "flags", "teacher_data"} == set(face.COMMANDS)
    for name in face.COMMANDS:
        module = importlib.import_module(f"{package}.commands.{name}")
        parser = argparse.ArgumentParser()
        subparsers = parser.add_subparsers()
        module.add_parser(subparsers)
        assert list(subparsers.choices) == [name.replace("_", "-")]
        assert callable(module.run)


def test_the_version_is_that_of_the_installed_package():
    for module in ("distillens_plugin.cli", "eval_harness"):
        done = call(module, "--version")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == distillens_plugin.__version__


def test_debug_may_stand_before_the_command_or_after_it(tmp_path):
    for arguments in (("--debug", "hooks"), ("hooks", "--debug")):
        done = call("distillens_plugin.cli", *arguments, tmp_path / "nowhere")
        assert done.returncode == 2
        assert "Traceback" in done.stderr
