"""What commands that load no weights say of layers that are measured before training."""

import json

from tiny_run import tiny_recipe

from distillens_plugin import cli

LAYERS = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.layers"
DEEPER = "models.student_model.init.config.n_layer=3"
BY_DIVERGENCE = f"{LAYERS}={{auto: 2, by: divergence, rows: 9}}"


def told(capsys, *arguments):
    assert cli.main([*map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_validate_and_the_full_form_say_that_they_are_measured_later(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path)
    out = told(
        capsys, "run", recipe, "--validate", "--print", "--set", DEEPER, "--set", BY_DIVERGENCE
    )
    assert (
        "ok the layers of lens: 2 pairs by divergence, measured before training on 9 rows, of "
        "layers 1-2 and 1-3\n"
    ) in out
    assert "# lens: its layers are measured before training; the runner adds their hooks\n" in out
    assert "forward_hook" not in out
    measured = f"{LAYERS}.measured={{student: [1, 2], teacher: [1, 3]}}"
    changes = [text for each in (DEEPER, BY_DIVERGENCE, measured) for text in ("--set", each)]
    out = told(capsys, "run", recipe, "--validate", "--print", *changes)
    assert "ok the layers of lens: 1-1 2-3 (student has 0 to 3, teacher has 0 to 4)" in out
    assert "- transformer.h.2\n" in out
    assert "by: divergence" in out


def test_the_plan_counts_as_many_layers_and_says_so(tmp_path, capsys):
    plan = ["plan", tiny_recipe(tmp_path), "--memory", "24GB", "--set", DEEPER]
    lines = told(capsys, *plan, "--set", BY_DIVERGENCE)
    assert "layers of lens: measured before training" in lines
    found, depth = (
        json.loads(told(capsys, *plan, "--json", "--set", layers))["choices"]
        for layers in (BY_DIVERGENCE, f"{LAYERS}={{auto: 2}}")
    )
    assert found == depth
