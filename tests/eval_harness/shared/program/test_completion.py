"""Completion scripts of both commands, as a real bash completes with them."""

import subprocess
import sys

import pytest

PROGRAMS = {"eval-harness": "eval_harness.cli", "distillens": "distillens_plugin.cli"}


def call(module: str, *arguments: str, hide: str = "") -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.modules[{hide!r}] = None; " if hide else "import sys; "
    text = f"{start}from {module} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_completes_commands_and_flags(program, tmp_path):
    pytest.importorskip("shtab", reason="shtab is not installed (it is in the completion extra)")
    done = call(PROGRAMS[program], "--print-completion", "bash")
    assert done.returncode == 0, done.stderr
    (tmp_path / "script").write_text(done.stdout)
    for words, expected in [([program, "r"], "run"), ([program, "run", "--s"], "--seed")]:
        asked = (
            f"source ./script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
            f"$(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {program}; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        found = subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert expected in found.stdout.split(), (found.stdout, found.stderr)


def test_without_shtab_it_is_one_line():
    done = call("eval_harness.cli", "--print-completion", "bash", hide="shtab")
    assert done.returncode == 2
    assert done.stderr == "eval-harness: --print-completion needs shtab; run: pip install shtab\n"


def test_an_unknown_shell_is_refused():
    done = call("eval_harness.cli", "--print-completion", "fish")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'bash'" in done.stderr or "bash, zsh" in done.stderr
