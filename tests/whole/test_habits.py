"""What pull requests go through: hooks, workflow and templates name what exists."""

import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
# Those that .ci/run calls, in order, and what it calls for .ci/test.
PARTS = [
    "make_training_env",
    "make_browser",
    "lint",
    "site",
    "tour",
    "quickstart",
    "with_vllm",
    "test",
]
TEST = ["test_groups", "test_summary"]
GROUPS = [
    line
    for line in (REPO / ".ci" / "groups").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
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
    others = ("settings", "make_vllm_env", "test_groups")
    assert [part for part in called if part not in others] == [*PARTS[:-1], "test_summary"]
    # Once beside the other parts, and once after them.
    assert [part for part in called if part in TEST] == ["test_groups", *TEST]


def at_once(folder: Path, first: str, second: str) -> subprocess.CompletedProcess[str]:
    text = (REPO / ".ci" / "settings").read_text(encoding="utf-8")
    function = text[text.index("at_once() {") : text.index("\n}\n") + 3]
    script = f"set -euo pipefail\nci_home={folder}\n{function}"
    script += f'at_once "{first}" "{second}"; echo after'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)


def test_what_was_begun_at_once_ends_with_a_script_that_is_ended(tmp_path):
    """Both lists, and what they started."""
    late = "(sleep 3; touch {folder}/{name}) & wait"
    first = f"(sleep 0.5; kill -TERM \\$PPID) & {late.format(folder=tmp_path, name='first')}"
    done = at_once(tmp_path, first, late.format(folder=tmp_path, name="second"))
    assert done.returncode == -15
    time.sleep(3)
    assert not (tmp_path / "first").exists()
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("exit 0", "exit 0", 0), ("exit 3", "exit 0", 3), ("exit 0", "exit 1", 1)],
)
def test_parts_at_once_both_run_and_either_can_fail(tmp_path, first, second, code):
    done = at_once(tmp_path, f"echo one; {first}", f"echo two; {second}")
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


def run_suite(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    stand_in(folder, f'echo "$@"\n{script}')
    environment = {"DISTILLENS_CI_HOME": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run([REPO / ".ci" / "test"], capture_output=True, text=True, env=environment)


def calls(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The arguments of each call of pytest, as the summary shows them."""
    shown = done.stdout[: done.stdout.index(" tests failed")].splitlines()
    return [line.split(" ") for line in shown if line.startswith("-m pytest")]


def test_the_groups_of_tests_are_the_whole_suite(tmp_path):
    """What the groups name, the last one leaves out; each runs once."""
    done = run_suite(tmp_path, "exit 0")
    assert done.returncode == 0, done.stdout + done.stderr
    folders = [folder for group in GROUPS[:-1] for folder in group.split(" ")]
    assert GROUPS[-1] == "the rest"
    assert len(folders) == len(set(folders))
    assert all((REPO / folder).is_dir() for folder in folders)
    expected = [group.split(" ") for group in GROUPS[:-1]]
    assert [call[6:] for call in calls(done)] == [*expected, [f"--ignore={f}" for f in folders]]
    assert len({call[3] for call in calls(done)}) == len(GROUPS)


def test_a_group_of_tests_that_was_never_run_fails_the_suite(tmp_path):
    """As where its folder could not be made; `mkdir` has no other way to say so."""
    stand_in(tmp_path, "exit 0")
    environment = {"DISTILLENS_CI_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for part, code in (("test_groups", 0), ("test_summary", 0)):
        assert subprocess.run([REPO / ".ci" / part], env=environment).returncode == code
    shutil.rmtree(tmp_path / "suite" / "2")
    assert subprocess.run([REPO / ".ci" / "test_summary"], env=environment).returncode == 1


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_group_of_tests_that_ends_otherwise_fails_the_suite(tmp_path, code):
    done = run_suite(tmp_path, f'case "$*" in *tests/training*) exit {code} ;; esac')
    assert done.returncode == code
    assert len(calls(done)) == len(GROUPS)


@pytest.mark.parametrize(
    ("num_failed", "again", "code", "runs"),
    [(1, 0, 0, 2), (3, 0, 0, 2), (3, 1, 1, 2), (4, 0, 1, 0)],
)
def test_a_few_failed_tests_are_run_again_alone(tmp_path, num_failed, again, code, runs):
    """With as many failures in two groups; `again` is the exit code of the second try."""
    failed = "\n".join(f'"tests/x.py::test_{number}": true,' for number in range(num_failed))
    script = f"""
    cache="${{4#cache_dir=}}"
    case "$*" in
        *--last-failed*) exit {again} ;;
        *tests/training*|*tests/gpu*)
            mkdir -p "$cache/v/cache"; echo '{failed}' > "$cache/v/cache/lastfailed"; exit 1 ;;
    esac"""
    # The rest leaves both folders out by name.
    script = script.replace("*tests/training*|*tests/gpu*", "*\\ tests/training*|*\\ tests/gpu*")
    done = run_suite(tmp_path, script)
    assert done.returncode == code, done.stdout + done.stderr
    assert f"{2 * num_failed} tests failed" in done.stdout
    assert done.stdout.count("--last-failed-no-failures") == runs


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
