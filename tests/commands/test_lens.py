"""`distillens lens`: what it prints of a recipe's pair and of models, and what it refuses."""

import json

import pytest
import torch
from tiny_run import ASSETS, save_tiny_model, tiny_recipe

from distillens_plugin.cli import main
from distillens_plugin.lens.translators import save_translators

LENS = "train.criterion.kwargs.sub_terms.lens"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), layers=3))


@pytest.fixture
def rows(tmp_path):
    """The quickstart's first rows."""
    with (ASSETS / "train.jsonl").open(encoding="utf-8") as file:
        lines = [next(file) for _ in range(6)]
    (tmp_path / "first.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(tmp_path / "first.jsonl")


def first_words(lines):
    return [line.split()[0] for line in lines if line[:8].strip().isdigit()]


def pairs_of(lines):
    words = [line.split() for line in lines if "-" in line[:8]]
    return [(each[0], each[1]) for each in words if each[1] in ("identity", "final")]


def test_of_a_recipe_every_layer_and_pair_is_printed(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path)
    assert main(["lens", str(recipe), "--rows", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("5 rows, ") for line in lines)
    assert first_words(lines) == ["0", "1", "2", "3", "4", "0", "1", "2"]
    both = [(pair, norm) for pair in ("1-2", "2-4") for norm in ("identity", "final")]
    assert pairs_of(lines) == both
    assert sum("the recipe's pairs: 1-2 (" in line for line in lines) == 2


def test_a_trained_student_takes_the_recipes_place(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path)
    student = save_tiny_model(tmp_path / "trained", layers=3)
    given = ["lens", str(recipe), "--rows", "2", "--norm", "final", "--student", str(student)]
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert first_words(lines) == ["0", "1", "2", "3", "4", "0", "1", "2", "3"]
    assert pairs_of(lines) == [("1-2", "final"), ("2-4", "final")]


def test_the_earlier_name_does_the_same_and_says_so(tmp_path, capsys):
    given = [str(tiny_recipe(tmp_path)), "--rows", "2", "--norm", "final"]
    assert main(["lens", *given]) == 0
    expected = capsys.readouterr()
    assert main(["lens-report", *given]) == 0
    found = capsys.readouterr()
    assert found.out == expected.out
    assert found.err.count("\n") == 1
    assert "distillens lens" in found.err


def test_a_recipe_without_the_lens_has_no_gradients_but_all_the_rest(tmp_path, capsys):
    recipe = str(tiny_recipe(tmp_path))
    assert main(["lens", recipe, "--rows", "2", "--norm", "final", "--set", f"{LENS}=null"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert pairs_of(lines) == []
    assert "least divergent pairs: 1-" in lines[-1]


def test_gradients_that_are_not_the_term_s_own_are_left_out(tmp_path, capsys):
    recipe = str(tiny_recipe(tmp_path))
    given = ["lens", recipe, "--rows", "2", "--norm", "final", "--set"]
    assert main([*given, f"{LENS}.criterion.kwargs.detach_unembedding=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if "-" in line[:8] and "|" in line]
    assert len(shown) == len(pairs_of(lines)) == 2
    for line in shown:
        unembedding, others = line.split("|")[-2:]
        assert not any(letter.isdigit() for letter in unembedding)
        assert any(letter.isdigit() for letter in others)
    file = str(tmp_path / "tuned.safetensors")
    maps = {k: (torch.zeros(32, 32), torch.zeros(32)) for k in (2, 4)}
    save_translators(file, maps, num_layers=4, notes={})
    assert main([*given, f"{LENS}.criterion.kwargs.teacher_translators={file}"]) == 0
    found = capsys.readouterr().out
    assert pairs_of(found.splitlines()) == []
    assert "it reads the teacher through its translators" in found


def test_pairs_by_divergence_are_those_of_the_map(tmp_path, capsys):
    change = f"{LENS}.criterion.kwargs.layers={{auto: 1, by: divergence}}"
    recipe = str(tiny_recipe(tmp_path))
    assert main(["lens", recipe, "--rows", "2", "--norm", "final", "--set", change]) == 0
    lines = capsys.readouterr().out.splitlines()
    (least,) = [line for line in lines if "least divergent pairs" in line]
    ((pair, _),) = pairs_of(lines)
    assert f"pairs: {pair} (" in least


def test_a_pair_may_be_given_by_module_paths(tmp_path, capsys):
    layers = "{student: [transformer.h.0], teacher: [transformer.h.1]}"
    change = f"{LENS}.criterion.kwargs.layers={layers}"
    given = ["lens", str(tiny_recipe(tmp_path)), "--rows", "2", "--set"]
    assert main([*given, change]) == 0
    by_path = capsys.readouterr().out.splitlines()[-1]
    assert (
        main([*given, change.replace("transformer.h.0", "1").replace("transformer.h.1", "2")]) == 0
    )
    by_number = capsys.readouterr().out.splitlines()[-1]
    assert by_path.split()[1:] == by_number.split()[1:]


def test_models_are_read_on_rows_of_their_own(tmp_path, model, rows, capsys):
    other = str(save_tiny_model(tmp_path / "other", layers=2, seed=3))
    long = {"instruction": "say it", "output": "word " * 400}
    with open(rows, "a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    assert main(["lens", model, "--other", other, "--data", rows, "--rows", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("2 rows, ") for line in lines)
    assert first_words(lines) == ["0", "1", "2", "3", "0", "1", "2"]
    assert pairs_of(lines) == []


def test_an_adapters_folder_is_read_on_its_base(tmp_path, model, rows, capsys):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    given = ["--data", rows, "--rows", "2", "--norm", "final"]
    assert main(["lens", model, *given]) == 0
    plain = capsys.readouterr().out.splitlines()
    assert main(["lens", model, "--other", str(tmp_path / "adapter"), *given]) == 0
    both = capsys.readouterr().out.splitlines()
    assert both[: len(plain)] == plain
    assert both[len(plain) + 3 : 2 * len(plain)] != plain[3:]


def test_a_layer_is_read_through_its_translator(tmp_path, model, rows, capsys):
    file = str(tmp_path / "tuned.safetensors")
    tune = ["tune-lens", model, "--data", rows, "--output", file, "--num_steps", "1"]
    assert main([*tune, "--layers", "1"]) == 0
    given = ["--data", rows, "--rows", "2", "--norm", "final"]
    capsys.readouterr()
    assert main(["lens", model, *given, "--translators", file]) == 0
    lines = capsys.readouterr().out.splitlines()
    final, tuned = zip(*(line.split("|")[1:3] for line in lines[-4:]), strict=True)
    assert [a.split() == b.split() for a, b in zip(final, tuned, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    other = str(save_tiny_model(tmp_path / "other", layers=3, seed=9))
    assert main(["lens", other, *given, "--translators", file]) == 2
    assert "other weights" in capsys.readouterr().err


def test_the_page_is_written_beside_its_numbers_and_not_over_other_files(tmp_path, capsys):
    folder = tmp_path / "map"
    given = ["lens", str(tiny_recipe(tmp_path)), "--rows", "2", "--norm", "final"]
    assert main([*given, "--examples", "1", "--output_dir", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {folder / 'lens.html'}"
    found = json.loads((folder / "lens.json").read_text(encoding="utf-8"))
    assert [model["role"] for model in found["models"]] == ["student", "teacher"]
    (example,) = found["models"][1]["examples"]["final"]
    assert len(example["tokens"]) == len(example["true_rank"][4]) <= 32
    assert found["settings"]["norm"] == "final"
    assert main([*given, "--output_dir", str(folder)]) == 2
    assert "holds a lens map; replace it with --overwrite" in capsys.readouterr().err
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert main([*given, "--output_dir", str(folder), "--overwrite"]) == 2
    assert "holds notes.txt, which is no part of a lens map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["RECIPE", "--with", "methods/sft", "--set", "models.student_model.tokenizer=MODEL"],
            "found no teacher",
        ),
        (["RECIPE", "--student", "missing"], "--student.name_or_path: cannot load 'missing'"),
        (["RECIPE", "--data", "rows.jsonl"], "--data: found with a recipe"),
        (["RECIPE", "--examples", "2"], "--examples: found without --output_dir"),
        (["RECIPE", "--translators", "x", "--norm", "identity"], "--translators: found with"),
        (["RECIPE", "--device", "nonsense"], "--device nonsense: cannot be used"),
        (["nosuch.yaml"], "nosuch.yaml"),
        (["MODEL"], "--data: missing"),
        (["MODEL", "--data", "ROWS", "--student", "x"], "--student: found with a model"),
        (["MODEL", "--data", "nosuch.jsonl"], "nosuch.jsonl"),
        (["MODEL", "--data", "./nosuch.csv"], "lens: --data: ./nosuch.csv does not exist"),
        (["MODEL", "--data", "ROWS", "--template", "nosuch"], "lens: --template: template 'nosuch"),
        (["MODEL", "--data", "ROWS", "--max_length", "900"], "--max_length to 256 or less"),
        (["MODEL", "--data", "ROWS", "--translators", "ROWS"], "cannot read translators"),
        (["MODEL", "--data", "ROWS", "--dtype", "int8"], "--dtype int8: expected one of"),
        (["nosuch", "--data", "ROWS"], "nosuch"),
    ],
)
def test_mistakes_are_one_line(tmp_path, model, rows, capsys, arguments, expected):
    long = {"instruction": "say it", "output": "word " * 400}
    (tmp_path / "rows.jsonl").write_text(json.dumps(long) + "\n", encoding="utf-8")
    if "900" in arguments:
        rows = str(tmp_path / "rows.jsonl")
    known = {"RECIPE": str(tiny_recipe(tmp_path)), "MODEL": model, "ROWS": rows}

    def fill(text):
        return known.get(text, text.replace("=MODEL", f"={model}"))

    assert main(["lens", *(fill(each) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_models_of_two_vocabularies_are_refused(tmp_path, model, rows, capsys):
    other = save_tiny_model(tmp_path / "other")
    file = other / "tokenizer.json"
    tokens = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokens["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokens), encoding="utf-8")
    assert main(["lens", model, "--other", str(other), "--data", rows]) == 2
    assert "different tokenizers" in capsys.readouterr().err
