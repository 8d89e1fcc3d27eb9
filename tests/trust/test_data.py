"""Data sets and benchmarks bring no code; the document names its tests."""

import os
import pickle
import re
from pathlib import Path

import pytest
from hostile_code import Pickled, refused, with_keys
from tiny_run import tiny_recipe
from watched import call, unchanged

import eval_harness.cli
from distillens_plugin import cli


def test_a_data_set_brings_no_code(tmp_path, marker):
    recipe = tiny_recipe(tmp_path)
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    (scripted / "scripted.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (scripted / "rows.pkl").write_bytes(pickle.dumps(Pickled(marker)))
    for keys in (
        {"datasets.train": {"path": str(scripted)}},
        {"datasets.train": {"path": str(scripted / "scripted.py")}},
        {"datasets.train": {"path": "pandas", "data_files": str(scripted / "rows.pkl")}},
    ):
        outcome = call(cli.main, ["run", str(with_keys(recipe, keys)), "--dry-run"])
        assert outcome.code == 2, outcome


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system ['touch MARKER']", "!function own.f"]
)
def test_a_benchmarks_file_brings_no_code(tmp_path, marker, value):
    (tmp_path / "own.yaml").write_text(f"task: own\npath: rows.jsonl\ndescription: {value}\n")
    arguments = ["run", "--model", "hf", "--model_args", "pretrained=x", "--output_path", "out"]
    for more in (["--tasks", "own", "--include_path", str(tmp_path)], ["--tasks", "own.yaml"]):
        refused(eval_harness.cli.main, *arguments, *more)


def test_templates_reach_nothing_but_their_fields(tmp_path, marker):
    recipe = tiny_recipe(tmp_path)
    for template in ("{instruction.__class__}", "{instruction!r}", "{instruction:>9999999999}"):
        keys = {"datasets.train.template": template}
        assert "template" in refused(cli.main, "run", with_keys(recipe, keys), "--validate")


def test_a_chat_template_runs_in_a_sandbox(tmp_path, marker, plain_model):
    from distillens_plugin.models.tokenizers import load_tokenizer
    from eval_harness.shared.text.templates import render_prompt

    tokenizer = load_tokenizer(str(plain_model))
    tokenizer.chat_template = (
        "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    )
    with pytest.raises(Exception, match="unsafe"):
        render_prompt("chat", "x", tokenizer=tokenizer)


def test_validation_of_all_this_writes_nothing(tmp_path, marker, plain_model):
    recipe = tiny_recipe(tmp_path)
    call(cli.main, ["run", str(recipe), "--validate"])
    with unchanged(tmp_path):
        assert call(cli.main, ["run", str(recipe), "--validate"]).fault() == ""
    assert os.listdir(tmp_path).count("runs") == 0


def test_the_tests_that_the_document_names_are_there():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "security.md").read_text(encoding="utf-8")
    files = set(re.findall(r"tests/[\w/]+\.py", text))
    assert len(files) >= 3
    assert all((root / name).is_file() for name in files)
    names = set(re.findall(r"test_\w+", text)) - {Path(name).stem for name in files}
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py"))
    assert len(names) > 15
    assert not [name for name in names if f"def {name}(" not in here]
