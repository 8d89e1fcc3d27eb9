"""Every code block of README, CONTRIBUTING and docs is run: here, by the test that it names, or not
at all, for a reason that it gives."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from code_blocks import ALL, REPO, Block, commands_of
from shell import shell
from tiny_run import ASSETS, save_tiny_model, tiny_recipe

from eval_harness.shared.files.atomic import write_text

OWN = [block for block in ALL if block.language != "text" and not (block.run_by or block.reason)]
# Fewer rows and tokens than a reader would want.
SHORTER = {
    "--limit 40": "--limit 2",
    "limit=40": "limit=2",
    "--protocol greedy": "--protocol greedy --gen_kwargs max_gen_toks=4",
    'protocol="greedy"': 'protocol="greedy", gen_kwargs={"max_gen_toks": 4}',
    "translators.safetensors": "translators.safetensors --num_steps 1 --num_rows 8",
    "fisher.safetensors": "fisher.safetensors --num_rows 8",
    "generate recipes/gpt2.yaml": "generate recipes/gpt2.yaml --model hf --keep_unfinished",
}
# Run whole by the block of docs/study.md, with --jobs.
STUDY = "distillens study recipes/studies/quickstart.yaml"
# Where a piece of a recipe belongs that does not begin at its top.
INSIDE = {
    "layers": "train.criterion.kwargs.sub_terms.lens.criterion.kwargs",
    "student_model": "models",
    "mse": "train.criterion.kwargs.sub_terms",
}


def of(language: str) -> list[Block]:
    return [block for block in OWN if block.language == language]


def test_every_block_has_a_language_and_there_are_enough():
    known = {"bash", "console", "json", "python", "yaml"}
    assert not [str(block) for block in ALL if block.language not in {*known, "text"}]
    assert len(ALL) > 80
    assert len(OWN) > 25


@pytest.mark.parametrize("block", [block for block in ALL if block.run_by], ids=str)
def test_what_runs_a_block_reads_it_from_its_page(block):
    path = REPO / str(block.run_by)
    assert path.is_file()
    text = path.read_text(encoding="utf-8")
    if path.parent.name == ".ci":
        assert all(command.split()[-1] in text for command in commands_of(block.text))
    else:
        assert block.page.name in text


def test_reasons_are_reasons():
    assert not [str(b) for b in ALL if b.reason is not None and len(b.reason.split()) < 3]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder like a clone, in which the shipped recipes have tiny models and take two steps."""
    made = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPO / "recipes", made / "recipes", ignore=shutil.ignore_patterns("quickstart"))
    assets = made / "recipes" / "quickstart"
    assets.mkdir()
    for part in ASSETS.iterdir():
        if part.name != "teacher":
            (assets / part.name).symlink_to(part)
    tiny = yaml.safe_load(tiny_recipe(made / "tiny").read_text(encoding="utf-8"))
    shutil.copytree(made / "tiny" / "teacher", assets / "teacher")
    student = save_tiny_model(made / "tiny" / "student", layers=4, seed=2)
    for name in ("gpt2", "tinyllama", "quickstart"):
        write_text(made / "recipes" / f"{name}.yaml", _small(name, tiny, student, made))
    mine = {"base": ["recipes/gpt2.yaml"], "output_dir": "runs/mine"}
    write_text(
        made / "my_recipe.yaml", yaml.safe_dump({**mine, "teacher_cache": {"path": "./cache"}})
    )
    shutil.copy(made / "my_recipe.yaml", made / "recipes" / "my_recipe.yaml")
    study = {
        "title": "Two",
        "recipe": "../quickstart.yaml",
        "seeds": [1],
        "compare_to": ["sft"],
        "output_dir": "runs/study",
    }
    methods = {name: [f"../methods/{name}.yaml"] for name in ("sft", "fkl")}
    studies = made / "recipes" / "studies"
    write_text(studies / "quickstart.yaml", yaml.safe_dump({**study, "methods": methods}))
    best = made / "runs" / "quickstart" / "best"
    shutil.copytree(student, best)
    write_text(made / "predictions.jsonl", '{"id": "1", "text": "Paris."}\n')
    write_text(made / "references.jsonl", '{"id": "1", "output": ["Paris"]}\n')
    write_text(made / "capitals.jsonl", '{"instruction": "The capital?", "output": "Paris"}\n')
    return made


def _small(name: str, tiny: dict[str, Any], student: Path, made: Path) -> str:
    """A recipe that changes the shipped one to tiny models and data, and leaves all else."""
    shipped = made / "recipes" / f"{name}.yaml"
    shipped.rename(made / "recipes" / f"shipped_{name}.yaml")
    nothing = dict.fromkeys(("data_files", "split", "template"))
    changes: dict[str, Any] = {
        "base": [f"shipped_{name}.yaml"],
        "datasets": {
            part: {**nothing, **tiny["datasets"][part]} for part in ("train", "validation")
        },
        "train": {"num_epochs": None, "num_steps": 2, "best_by": "validation_loss"},
        "mixed_precision": "no",
        "samples": {"num_rows": 0},
        "report": {"page": False},
    }
    if name != "quickstart":
        teacher = {"name_or_path": tiny["models"]["teacher_model"]["name_or_path"], "dtype": None}
        changes["models"] = {
            "teacher_model": teacher,
            "student_model": {"name_or_path": str(student), "gradient_checkpointing": None},
        }
        layers = {"student": [1, 2], "teacher": [1, 3]}
        lens = {"criterion": {"kwargs": {"layers": layers}}}
        changes["train"]["criterion"] = {"kwargs": {"sub_terms": {"lens": lens}}}
    return str(yaml.safe_dump(changes))


def known_names(page: str) -> dict[str, Any]:
    """What the reader of a page has already."""
    if page != "fused.md":
        return {}
    torch.manual_seed(0)
    return {
        "student_hidden": torch.randn(6, 8, requires_grad=True),
        "student_weight": torch.randn(32, 8, requires_grad=True),
        "teacher_hidden": torch.randn(6, 8),
        "teacher_weight": torch.randn(32, 8),
        "h2": torch.randn(6, 8, requires_grad=True),
        "last": torch.randn(6, 8, requires_grad=True),
        "t8": torch.randn(6, 8),
        "teacher_last": torch.randn(6, 8),
        "next_tokens": torch.randint(0, 32, (6,)),
    }


def shorter(text: str) -> str:
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands(block, place, monkeypatch):
    monkeypatch.chdir(place)
    for run_folder in ("gpt2", "mine", "study", "studies", "tinyllama"):
        shutil.rmtree(place / "runs" / run_folder, ignore_errors=True)
    for map_folder in ("lens", "map"):
        shutil.rmtree(place / "out" / map_folder, ignore_errors=True)
    for command in commands_of(block.text):
        if command == STUDY and block.page.name != "study.md":
            command += " --dry-run"
        run(shorter(command).replace("openai-community/gpt2", "tiny/student"), place)


@pytest.mark.parametrize("block", of("console"), ids=str)
def test_what_a_command_prints(block, place, monkeypatch, capsys):
    """A command after a $, and all that it prints."""
    command, _, expected = block.text.removeprefix("$ ").partition("\n")
    monkeypatch.chdir(REPO)
    run(command, place)
    assert capsys.readouterr().out.rstrip() == expected.rstrip()


def run(command: str, place: Path) -> None:
    """In this process where it is a program of ours, since starting one takes seconds."""
    words = shlex.split(command)
    module = {"distillens": "distillens_plugin.cli", "eval-harness": "eval_harness.cli"}.get(
        words[0]
    )
    if words[:3] == ["python", "-m", "distillens_plugin.run"]:
        module, words = "distillens_plugin.run", words[2:]
    if module is None:
        shell(command, place)
    else:
        assert importlib.import_module(module).main(words[1:]) == 0, command


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python(block, place, monkeypatch):
    monkeypatch.chdir(place)
    if "out/teacher" in block.text:
        (evaluation,) = (b for b in ALL if b.page.name == "README.md" and "out/teacher" in b.text)
        test_commands(evaluation, place, monkeypatch)
    code = shorter(block.text)
    exec(compile(code, str(block), "exec"), {"__name__": "block", **known_names(block.page.name)})


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml(block, place, monkeypatch):
    """A recipe, or what a recipe may say; a study, a benchmark, or a command's own file."""
    monkeypatch.chdir(place)
    content = yaml.safe_load(block.text)
    named = re.match(r"# ([\w/]+\.yaml)(?:: (.*))?\n", block.text)
    if "methods" in content:
        from distillens_plugin.study.load import load_study

        write_text(place / "recipes" / "studies" / "block.yaml", block.text)
        assert load_study("recipes/studies/block.yaml").methods.keys() == content["methods"].keys()
    elif "task" in content:
        from eval_harness import find_benchmarks

        write_text(place / "block_benchmark.yaml", block.text)
        assert content["task"] in find_benchmarks(place / "block_benchmark.yaml")
    elif named is not None and named[2]:
        write_text(place / named[1], block.text)
        run(f"{shorter(named[2])} --gen_kwargs max_gen_toks=4", place)
    else:
        load(content, named[1] if named else "recipes/block.yaml", place)


def load(content: dict[str, Any], name: str, place: Path) -> None:
    """Reads a recipe; one without a base is what somebody adds to the quickstart."""
    from distillens_plugin.recipe.loading import load_recipe

    base = yaml.safe_load((place / "recipes" / "shipped_quickstart.yaml").read_text("utf-8"))
    first = next(iter(content))
    if first in INSIDE:
        node, keys = base, INSIDE[first].split(".")
        for key in keys:
            node = node[key]
        node.pop(first, None)  # it is said anew, not changed
        for key in reversed(keys):
            content = {key: content}
    write_text(place / "recipes" / "bare.yaml", yaml.safe_dump(base))
    write_text(place / name, yaml.safe_dump({"base": ["bare.yaml"], **content}))
    assert load_recipe(place / name).train.criterion.kwargs.sub_terms


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_rows_that_the_data_reader_takes(block, tmp_path):
    from distillens_plugin.data.rows import read_rows
    from distillens_plugin.recipe.schema.data import DatasetSpec

    decoder, rows, rest = json.JSONDecoder(), [], block.text.strip()
    while rest:  # a row may be broken over lines for the reader
        row, end = decoder.raw_decode(rest)
        rows.append(row)
        rest = rest[end:].strip()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(tmp_path / "rows.jsonl", text)
    spec = DatasetSpec(path=str(tmp_path / "rows.jsonl"), template="chat")
    assert len(list(read_rows(spec, where="data"))) == len(rows) > 0
