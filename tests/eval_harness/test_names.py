"""Every table of names, the command's help and the documentation hold the same names."""

import re
import typing
from collections.abc import Iterable
from pathlib import Path

import pytest

import distillens_plugin.study.spec
from eval_harness import BACKENDS, METRICS, PROTOCOLS, TEMPLATES, find_benchmarks
from eval_harness.cli import main

REPO = Path(__file__).resolve().parents[2]
TABLES: dict[str, Iterable[str]] = {
    "backend": BACKENDS,
    "benchmark": find_benchmarks(),
    "metric": METRICS,
    "protocol": PROTOCOLS,
    "template": TEMPLATES,
}


def documented(kind: str) -> list[str]:
    """The names in the first column of the one table about this kind."""
    text = (REPO / "docs/evaluation.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| {kind} \|.*\n\| --- .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", TABLES)
def test_the_documentation_has_every_name_and_no_other(kind):
    assert sorted(documented(kind)) == sorted(TABLES[kind])


@pytest.mark.parametrize(
    ("flag", "kind"),
    [("--model", "backend"), ("--protocol", "protocol"), ("--template", "template")],
)
def test_the_help_of_run_has_every_name(flag, kind, capsys):
    text = help_of("run", capsys)
    text = text[text.index("options:") :]
    about = re.search(rf"{flag} .*?(?= --[a-z])", text)
    assert about is not None
    for name in TABLES[kind]:
        assert re.search(rf"\b{name}\b", about[0]), (name, about[0])


def test_ls_lists_every_name(capsys):
    assert main(["ls"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:3].strip()]
    listed = re.findall(r"^  (\w+)", "\n".join(f"  {name}" for name in listed), re.MULTILINE)
    for names in TABLES.values():
        assert set(names) <= set(listed)


def test_the_recipe_keys_name_every_template():
    text = (REPO / "docs/recipe_keys.md").read_text(encoding="utf-8")
    (row,) = {line.split("|")[4] for line in text.splitlines() if line.startswith("| `template`")}
    for name in TEMPLATES:
        assert re.search(rf"\b{name}\b", row), name


def test_a_study_knows_every_backend():
    spec = distillens_plugin.study.spec
    # A server has one model, so it can answer for a teacher, but not for each run's student.
    for model, lacking in ((spec.Evaluation, {"server"}), (spec.Generate, set())):
        known = set(typing.get_args(model.model_fields["model"].annotation))
        assert known == set(BACKENDS) - lacking
