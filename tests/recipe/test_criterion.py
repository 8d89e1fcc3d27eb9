"""`weight: auto` in a recipe: what it is balanced against, and where it is refused."""

import pytest
import yaml
from code_blocks import REPO, blocks_of
from recipe_text import FINE_TUNING, write_recipe

from distillens_plugin.lens.config_facts import ModelFacts
from distillens_plugin.preflight.sharding import check_fits
from distillens_plugin.preflight.validate import print_full_form
from distillens_plugin.recipe.full_form import full_form
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

TERMS = "train.criterion.kwargs.sub_terms"
AUTO = f"{TERMS}.lens.weight=auto"
CROSS_ENTROPY = "{criterion: {key: distillens.cross_entropy}}"
SECOND_KD = "{criterion: {key: distillens.logits_kd, kwargs: {divergence: rkl}}}"


def loaded(folder, *overrides):
    return load_recipe(write_recipe(folder), overrides)


@pytest.mark.parametrize(
    ("overrides", "reference"),
    [
        ([AUTO], "kd"),
        ([AUTO, f"{TERMS}.ce={CROSS_ENTROPY}"], "kd"),
        ([AUTO, f"{TERMS}.ce={CROSS_ENTROPY}", f"{TERMS}.kd.weight=0"], "ce"),
        ([AUTO, f"{TERMS}.ce={CROSS_ENTROPY}", f"{TERMS}.kd.weight=auto"], "ce"),
        ([AUTO, f"{TERMS}.more={SECOND_KD}", f"{TERMS}.more.weight=auto"], "kd"),
    ],
)
def test_a_term_is_balanced_against_the_final_logits_or_else_the_labels(
    tmp_path, overrides, reference
):
    criterion = loaded(tmp_path, *overrides).train.criterion.kwargs
    assert criterion.reference() == reference
    assert "lens" in criterion.balanced()
    assert reference not in criterion.balanced()


def test_a_weight_that_is_measured_stays_so_in_the_resolved_recipe(tmp_path):
    recipe = loaded(tmp_path, AUTO)
    terms = recipe.to_plain()["train"]["criterion"]["kwargs"]["sub_terms"]
    assert terms["lens"]["weight"] == "auto"
    facts = type("Facts", (), {"num_layers": 4, "blocks": "h"})()
    form = full_form(recipe, facts, facts)["train"]["criterion"]["kwargs"]["sub_terms"]
    assert form["lens"]["weight"] == 1.0  # torchdistill computes with it until it is measured


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{TERMS}.lens.weight=atuo"], r"found 'atuo', expected a number of at least 0, or auto"),
        ([f"{TERMS}.lens.weight=true"], r"found true, expected a number of at least 0, or auto"),
        ([f"{TERMS}.lens.weight=.inf"], r"found inf, expected a number of at least 0, or auto"),
        ([AUTO, f"{TERMS}.kd=null"], r"lens\.weight: found auto, but no term to balance it"),
        ([AUTO, f"{TERMS}.kd.weight=0"], r"lens\.weight: found auto, but no term to balance it"),
        ([f"{TERMS}.kd.weight=auto"], r"kd\.weight: found auto, but no term to balance it"),
        ([AUTO, f"{TERMS}.more={SECOND_KD}"], r"found auto, but the terms kd and more to balance"),
    ],
)
def test_a_weight_that_cannot_be_balanced_is_refused(tmp_path, overrides, message):
    with pytest.raises(DistillensError, match=message):
        loaded(tmp_path, *overrides)


def test_without_a_teacher_there_is_the_labels_alone(tmp_path):
    router = f"{TERMS}.router={{criterion: {{key: distillens.router_loss}}, weight: auto}}"
    recipe = load_recipe(write_recipe(tmp_path, FINE_TUNING), [router])
    assert recipe.train.criterion.kwargs.reference() == "ce"


def test_what_shows_no_gradients_and_what_torchdistill_would_take_are_refused(tmp_path):
    recipe = loaded(tmp_path, AUTO, "resumable=false")
    for kind in ("ddp", "fsdp2", "hsdp"):
        check_fits(recipe, kind)
    with pytest.raises(DistillensError, match=r"lens\.weight: found auto under zero2, which shows"):
        check_fits(recipe, "zero2")
    facts = ModelFacts.__new__(ModelFacts)
    with pytest.raises(DistillensError, match=r"weight: found auto, .* with --print; give it"):
        print_full_form(recipe, {"teacher_model": facts, "student_model": facts})


SIDE = "{is_from_teacher: false, module_path: lm_head, io: output}"


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("{criterion: {key: MSELoss}}", r"x\.criterion_wrapper: missing; MSELoss compares two"),
        (
            "{criterion: {key: MSELoss}, criterion_wrapper: {key: SimpleLossWrapper}}",
            r"criterion_wrapper\.kwargs\.input: missing; expected such as \{is_from_teacher",
        ),
        (
            "{criterion: {key: MSELoss}, criterion_wrapper: {key: SimpleLossWrapper, kwargs: "
            f"{{input: {SIDE}, target: {{io: output}}}}}}}}",
            r"kwargs\.target: found a mapping with the keys io; expected such as",
        ),
        (
            "{criterion: {key: MSELoss}, criterion_wrapper: {key: SimpleLossWrapper, kwargs: "
            f"{{input: {SIDE}, target: labels}}}}}}",
            r"kwargs\.target: found 'labels'; expected such as",
        ),
        (
            "{criterion: {key: distillens.logits_kd}, criterion_wrapper: {key: SimpleLossWrapper, "
            f"kwargs: {{input: {SIDE}, target: {SIDE}}}}}}}",
            r"found a wrapper, but distillens\.logits_kd picks its own inputs; delete it",
        ),
    ],
)
def test_a_wrapper_is_where_a_loss_needs_one_and_says_what_it_compares(tmp_path, term, message):
    with pytest.raises(DistillensError, match=message):
        loaded(tmp_path, f"{TERMS}.x={term}")


@pytest.mark.parametrize("target", [f", target: {SIDE}", ", target: {uses_label: true}", ""])
def test_a_loss_of_torchs_with_a_whole_wrapper_passes(tmp_path, target):
    kwargs = f"{{input: {SIDE}{target}}}"
    wrapper = f"{{key: SimpleLossWrapper, kwargs: {kwargs}}}"
    term = f"{{criterion: {{key: MSELoss}}, criterion_wrapper: {wrapper}}}"
    assert "x" in loaded(tmp_path, f"{TERMS}.x={term}").train.criterion.kwargs.sub_terms


def test_the_page_on_choosing_shows_a_fragment_that_a_recipe_takes(tmp_path):
    (block,) = [b for b in blocks_of(REPO / "docs/choosing.md") if "weight: auto" in b.text]
    fragment = tmp_path / "fragment.yaml"
    fragment.write_text(yaml.safe_dump(yaml.safe_load(block.text)), encoding="utf-8")
    recipe = load_recipe(write_recipe(tmp_path), [], fragments=[str(fragment)])
    assert recipe.train.criterion.kwargs.balanced() == ["lens"]
