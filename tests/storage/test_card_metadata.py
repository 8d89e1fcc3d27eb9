"""The front matter of a model card: what the Hub looks up, and nothing that it cannot."""

import pytest
import yaml
from huggingface_hub import ModelCardData
from tiny_run import tiny_recipe

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.storage.card_metadata import base_model, card_metadata, known_license

SCORES = {"validation_loss": 2.5, "rougeL": 31.0, "val/kd": 0.25, "on_policy_share": 0.5}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("card"))


def _card(path, scores, *changes):
    recipe = load_recipe(path, changes)
    return yaml.safe_load(card_metadata(recipe, scores, title="my-run"))


def test_names_on_the_hub_are_stated(path):
    card = _card(
        path,
        {},
        "models.student_model={name_or_path: openai-community/gpt2}",
        "datasets.train.path=databricks/databricks-dolly-15k",
    )
    assert card["base_model"] == "openai-community/gpt2"
    assert card["datasets"] == ["databricks/databricks-dolly-15k"]
    assert card["library_name"] == "transformers"
    assert card["tags"] == ["distillens", "knowledge-distillation"]
    assert "model-index" not in card, "there are no results yet"


def test_files_and_folders_here_are_not(path):
    card = _card(path, {}, f"models.student_model={{name_or_path: {path.parent / 'teacher'}}}")
    assert not card.keys() & {"base_model", "datasets", "license"}
    assert str(path.parent) not in yaml.safe_dump(card)


@pytest.mark.parametrize(
    ("student", "base"),
    [
        ("{init: {from_teacher_layers: [0, 3]}}", "teacher"),
        ("{name_or_path: org/small}", "org/small"),
        ("{init: {config: {model_type: gpt2, n_layer: 2}}}", None),
    ],
)
def test_the_base_model_is_the_one_whose_weights_the_student_starts_from(path, student, base):
    found = base_model(load_recipe(path, [f"models.student_model={student}"]))
    assert found == (str(path.parent / "teacher") if base == "teacher" else base)


def test_the_model_index_has_the_metrics_of_the_validation(path):
    front = yaml.safe_dump(_card(path, SCORES))
    data = ModelCardData(ignore_metadata_errors=False, **yaml.safe_load(front))
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"loss": 2.5, "rouge": 31.0, "kd": 0.25}
    assert {result.dataset_name for result in data.eval_results} == {"valid"}
    assert data.model_name == "my-run"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: apache-2.0\n---\n", {"license": "apache-2.0"}),
        (
            "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "mine", "license_link": "LICENSE"},
        ),
        ("---\nlicense: [a, b]\n---\n", {}),
        ("---\nlicense: {\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("no front matter\n", {}),
        (None, {}),
    ],
)
def test_the_license_is_that_of_the_base_models_card(tmp_path, text, found):
    if text is not None:
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert known_license(str(tmp_path)) == found


def test_a_model_without_a_card_here_has_no_known_license():
    assert known_license("some-org/never-downloaded") == {}
