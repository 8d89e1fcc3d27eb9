"""What is refused once models are built, before the first step."""

import pytest
from recipe_text import write_recipe
from small_models import small_model

from distillens_plugin.experiment.checks import check_hooks
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError


def check(folder, *paths):
    recipe = load_recipe(write_recipe(folder))
    check_hooks({"student": {"frozen_modules": list(paths)}}, small_model("gpt2"), None, recipe)


def test_what_can_be_frozen_passes(tmp_path):
    check(tmp_path, "transformer.h.0", "lm_head", "transformer.ln_f.weight", "instance(LayerNorm)")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("transformer.lnf", "has no module 'transformer.lnf'; nearest: transformer.ln_f"),
        ("transformer.h.3", "has no module 'transformer.h.3' (transformer.h has 0 to 2)"),
        (".", "found '.'; to freeze all, set requires_grad: false"),
        ("instance(LayerNrom)", "no module of torch.nn.LayerNrom"),
        ("instance(Conv2d)", "no module of torch.nn.Conv2d"),
    ],
)
def test_a_frozen_module_that_the_model_lacks_is_refused(tmp_path, path, expected):
    with pytest.raises(DistillensError) as caught:
        check(tmp_path, "lm_head", path)
    assert expected in str(caught.value)
    assert "train.student.frozen_modules: " in str(caught.value)
