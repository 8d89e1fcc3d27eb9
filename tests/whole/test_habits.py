"""What pull requests go through: hooks, workflow and templates name what exists."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
PARTS = [
    "make_training_env",
    "make_browser",
    "lint",
    "site",
    "tour",
    "quickstart",
    "with_vllm",
    "gpu_trial",
    "test",
]


def load(name: str) -> dict:
    found = yaml.safe_load((REPO / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def commands_in(script: str) -> list[list[str]]:
    """The lines of a shell script as words, without comments."""
    text = (REPO / script).read_text(encoding="utf-8").replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def check_command(words: list[str]) -> None:
    """The program exists here, and so does each file of ours among its arguments."""
    program, *arguments = words
    if program.startswith(".ci/"):
        assert (REPO / program).stat().st_mode & 0o111, f"{program} is not executable"
    else:
        beside = Path(sys.executable).parent / program
        assert beside.exists() or shutil.which(program), f"{program} is not installed"
    for argument in arguments:
        if not argument.startswith("-") and ("/" in argument or argument.endswith(".py")):
            assert (REPO / argument).exists(), argument
    if program == "mypy":
        assert all((REPO / argument).is_dir() for argument in arguments)


def workflow_jobs() -> dict[str, list[dict]]:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    return {name: job["steps"] for name, job in jobs.items()}


def test_hooks_are_local_and_their_commands_exist():
    (source,) = load(".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local"
    hooks = {hook["id"]: hook for hook in source["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "mypy", "end-of-file"}
    for hook in hooks.values():
        assert hook["language"] == "system"
        check_command(shlex.split(hook["entry"]))


def test_pre_commit_accepts_the_hooks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", REPO / ".pre-commit-config.yaml"],
        capture_output=True,
        text=True,
        env={"PRE_COMMIT_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint_checks_what_the_hooks_check():
    entries = [hook["entry"] for hook in load(".pre-commit-config.yaml")["repos"][0]["hooks"]]
    lint = (REPO / ".ci" / "lint").read_text(encoding="utf-8").replace('"$training/bin/', "")
    lint = lint.replace('"', "")
    for entry in entries:
        assert entry in lint.replace("format --check", "format"), entry


def test_run_calls_its_parts_in_order_and_the_suite_last():
    text = (REPO / ".ci" / "run").read_text(encoding="utf-8")
    called = re.findall(r"\.ci/(\w+)", text)
    # with_vllm makes its environment by itself where it is alone.
    assert [part for part in called if part not in ("settings", "make_vllm_env")] == PARTS


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("exit 0", "exit 0", 0), ("exit 3", "exit 0", 3), ("exit 0", "exit 1", 1)],
)
def test_parts_at_once_both_run_and_either_can_fail(tmp_path, first, second, code):
    text = (REPO / ".ci" / "run").read_text(encoding="utf-8")
    function = text[text.index("at_once() {") : text.index("\n}\n") + 3]
    script = f"set -euo pipefail\nci_home={tmp_path}\n{function}"
    script += f'at_once "echo one; {first}" "echo two; {second}"; echo after'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.splitlines() == ["one", "two", *(["after"] if code == 0 else [])]


def test_scripts_are_valid_and_stop_at_the_first_failure():
    for path in sorted((REPO / ".ci").iterdir()):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not text.startswith("#!/usr/bin/env bash"):
            continue
        assert path.stat().st_mode & 0o111, f"{path} is not executable"
        assert "\nset -euo pipefail\n" in text, path
        subprocess.run(["bash", "-n", path], check=True)
        for part in re.findall(r"(?m)^(?:source )?(\.ci/\w+)", text):
            assert (REPO / part).is_file(), f"{path}: {part}"


def stand_in(folder: Path, script: str) -> None:
    """Takes the place of the environment's python, for .ci/test."""
    python = folder / "training" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def run_halves(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    stand_in(folder, f'echo "$@"\n{script}')
    environment = {"DISTILLENS_CI_HOME": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run([REPO / ".ci" / "test"], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ('[ "$5" = tests/attached ]', 1)])
def test_the_halves_of_the_suite_are_the_whole_of_it(tmp_path, script, code):
    """What one half runs, the other leaves out, and each can fail."""
    done = run_halves(tmp_path, script)
    assert done.returncode == code
    rest, half = (line.split(" ") for line in done.stdout.splitlines() if line.startswith("-m"))
    assert half[:3] == rest[:3] == ["-m", "pytest", "-o"]
    assert rest[4:] == [f"--ignore={folder}" for folder in half[4:]]
    assert all((REPO / folder).is_dir() for folder in half[4:])


@pytest.mark.parametrize(
    ("num_failed", "again", "code", "runs"),
    [(2, 0, 0, 3), (2, 1, 1, 3), (4, 0, 1, 2), (0, 0, 1, 2)],
)
def test_a_few_failed_tests_are_run_again_alone(tmp_path, num_failed, again, code, runs):
    """With as many failures in the first half; `again` is the exit code of the second try."""
    cache = tmp_path / "first_half" / "v" / "cache"
    failed = "\n".join(f'"tests/x.py::test_{number}": true,' for number in range(num_failed))
    script = f"""
    case "$*" in
        *--last-failed*) exit {again} ;;
        *first_half*) mkdir -p {cache}; echo '{failed}' > {cache}/lastfailed; exit 1 ;;
    esac"""
    done = run_halves(tmp_path, script)
    assert done.returncode == code, done.stdout
    called = [line for line in done.stdout.splitlines() if line.startswith("-m")]
    assert len(called) == runs
    assert f"{num_failed} tests failed in the first half" in done.stdout


def test_test_passes_on_its_arguments_and_its_exit_code(tmp_path):
    """.ci/test with a stand-in for the environment's python."""
    stand_in(tmp_path, 'echo "$@" "vllm=$DISTILLENS_VLLM_PYTHON"\nexit 3')
    environment = {"DISTILLENS_CI_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [REPO / ".ci" / "test", "-k", "one word"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (3, "-m pytest -k one word vllm=\n")
    generation = tmp_path / "generation"
    generation.mkdir()
    (generation / ".lock-hash").write_text("whole\n")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.endswith(f"vllm={generation}/bin/python\n")


def test_the_workflow_calls_the_parts_of_run_in_their_order():
    called: set[str] = set()
    for name, steps in workflow_jobs().items():
        runs = [step["run"] for step in steps if "run" in step]
        for run in runs:
            check_command(shlex.split(run))
        order = [PARTS.index(run.removeprefix(".ci/")) for run in runs]
        assert order == sorted(order), name
        assert order[0] == 0, f"{name} makes no environment"
        called.update(runs)
    assert called == {f".ci/{part}" for part in PARTS}


def test_the_workflow_pins_its_actions_and_uses_the_oldest_python():
    with (REPO / "pyproject.toml").open("rb") as file:
        oldest = tomllib.load(file)["project"]["requires-python"].removeprefix(">=")
    for steps in workflow_jobs().values():
        for step in steps:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
            if "setup-python" in step.get("uses", ""):
                assert step["with"]["python-version"] == oldest
                assert (REPO / step["with"]["cache-dependency-path"]).is_file()


def test_issue_forms_have_what_github_asks_for():
    forms = sorted((REPO / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {form.stem for form in forms} == {"bug", "config", "idea"}
    for form in forms:
        content = load(str(form.relative_to(REPO)))
        if form.stem == "config":
            continue
        assert content["name"]
        assert content["description"]
        ids = [field["id"] for field in content["body"]]
        assert len(ids) == len(set(ids))
        for field in content["body"]:
            assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
            assert field["attributes"]["label"]


def test_templates_name_files_that_exist():
    folder = REPO / ".github"
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".md", ".yml"}:
            continue
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / target).exists(), f"{path}: {target}"
        for name in re.findall(r"(?<![\w/.-])(\.ci/\w+|[A-Z]+\.md|docs/\w+\.md)", text):
            assert (REPO / name).exists(), f"{path}: {name}"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"one\ntwo\n", []),
        (b"", []),
        (b"\0binary", []),
        (b"one", ["no newline at the end"]),
        (b"one\n\n", ["empty lines at the end"]),
        (
            b"one \ntwo\t\n",
            ["1: a blank at the end of the line", "2: a blank at the end of the line"],
        ),
        (b"one\r\n", ["1: a blank at the end of the line"]),
    ],
)
def test_the_check_of_ends_finds_what_is_wrong(tmp_path, content, found):
    (tmp_path / "file").write_bytes(content)
    done = subprocess.run(
        [sys.executable, REPO / ".ci" / "end_of_file.py", tmp_path / "file", tmp_path / "gone"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == (1 if found else 0)
    lines = done.stdout.splitlines()
    assert len(lines) == len(found)
    for line, expected in zip(lines, found, strict=True):
        assert line.endswith(expected)
