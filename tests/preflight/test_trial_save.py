"""What could not be saved is found before training; published settings are kept where valid."""

import json

import pytest
import torch
from small_models import small_model
from tiny_run import ASSETS, tiny_recipe
from transformers import GenerationConfig

from distillens_plugin import run
from distillens_plugin.models.end_tokens import end_token_ids, set_special_tokens
from distillens_plugin.models.generation_settings import valid_settings
from distillens_plugin.models.loading import load_student
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.preflight.trial_save import check_saving
from distillens_plugin.recipe.schema.models import StudentSpec
from eval_harness.errors import DistillensError


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(ASSETS / "tokenizer"))


# (as published, what is left out)
PUBLISHED = [
    ({"temperature": 0.9, "top_p": 0.6}, {"temperature", "top_p"}),  # vicuna, early Llama 2
    ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}, set()),
    ({"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.1}, {"temperature"}),
    ({"min_p": 0.15, "max_new_tokens": 99}, {"min_p"}),
    ({"do_sample": True, "min_p": 0.15}, set()),
    (
        {"top_k": 20, "typical_p": 0.3, "epsilon_cutoff": 0.1},
        {"top_k", "typical_p", "epsilon_cutoff"},
    ),
    ({"length_penalty": 2.0, "early_stopping": True}, {"length_penalty", "early_stopping"}),
    ({"num_beams": 4, "length_penalty": 2.0, "early_stopping": True}, set()),
    ({"output_scores": True}, {"output_scores"}),
    ({"use_cache": False, "cache_implementation": "static"}, {"cache_implementation"}),
]


@pytest.mark.parametrize(("given", "left_out"), PUBLISHED, ids=str)
def test_published_settings_are_saved_without_what_has_no_effect(
    tmp_path, tokenizer, given, left_out
):
    small_model("llama", layers=1, vocab=len(tokenizer)).save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": 7, "bos_token_id": 5, **given}), encoding="utf-8")
    student = load_student(
        StudentSpec(name_or_path=str(tmp_path / "base")), tokenizer, teacher=None
    )
    check_saving(student, tokenizer, where="models.student_model")
    student.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    for name, value in given.items():
        assert getattr(saved, name) == (None if name in left_out else value), name
    assert saved.eos_token_id == tokenizer.eos_token_id
    assert saved.bos_token_id == 5


def test_settings_that_can_be_saved_are_left_alone():
    settings = GenerationConfig(do_sample=True, temperature=0.5)
    assert valid_settings(settings) == (settings, [])


@pytest.mark.parametrize("own", [None, 9, [9, 10]])
def test_what_ends_a_response_in_training_ends_an_answer_in_the_saved_files(tokenizer, own):
    model = small_model("llama", layers=1, vocab=len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = own
    eos = tokenizer.eos_token_id

    class Chat:
        end_ids = (77,)

    set_special_tokens(model, tokenizer, end_token_ids(tokenizer, Chat(), None))
    for settings in (model.config, model.generation_config):
        assert settings.eos_token_id == [eos, 77]
        assert settings.pad_token_id == tokenizer.pad_token_id
    set_special_tokens(model, tokenizer)
    assert model.generation_config.eos_token_id == eos


def entangle(model):
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight


def unwritable(model):
    model.config.rope_parameters = {"object": object()}


def sampling_in_config(model):
    model.config.temperature = 0.3


def impossible_settings(model):
    model.generation_config.early_stopping = "perhaps"


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (entangle, "shared tensors"),
        (unwritable, "JSON serializable"),
        (sampling_in_config, "temperature"),
        (impossible_settings, "early_stopping"),
    ],
)
def test_a_model_that_cannot_be_saved_is_refused(tokenizer, break_it, expected):
    model = small_model("llama", layers=2, vocab=len(tokenizer))
    break_it(model)
    with pytest.raises(DistillensError) as caught:
        check_saving(model, tokenizer, where="r.yaml: models.student_model")
    text = str(caught.value)
    assert text.startswith("r.yaml: models.student_model: the model's configuration or weights")
    assert expected in text
    assert "\n" not in text
    assert len(text) < 1000


def test_a_tokenizer_that_cannot_be_saved_is_refused(tokenizer):
    class Unsaved:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def save_pretrained(self, folder):
            raise NotImplementedError("no way to write it")

    model = small_model("llama", layers=1, vocab=len(tokenizer))
    with pytest.raises(DistillensError, match=r"the tokenizer could not .*no way to write"):
        check_saving(model, Unsaved(), where="models.model")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "opt"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "lora", [None, {"target_modules": "all-linear"}, {"target_modules": ["lm_head"]}]
)
def test_models_that_can_be_saved_pass(tmp_path, tokenizer, kind, tied, lora):
    small_model(kind, layers=1, vocab=64, tied=tied).save_pretrained(tmp_path / "base")
    spec = StudentSpec(name_or_path=str(tmp_path / "base"), lora=lora)
    student = load_student(spec, tokenizer, teacher=None)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    check_saving(student, tokenizer, where="models.student_model")
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_run_ends_before_it_trains_what_it_could_not_save(
    tmp_path, capsys, monkeypatch, tokenizer, dry
):
    def fail(self, *args, **more):
        raise ValueError("a token that is no text")

    path = tiny_recipe(tmp_path)
    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    assert run.main([str(path), *dry]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().split("\n")[-1]
    assert "recipe.yaml" in last
    assert "models.student_model: the tokenizer could not be saved after training" in last
    assert "a token that is no text" in last
    assert "loss" not in captured.out
    assert not (tmp_path / "out").exists()
