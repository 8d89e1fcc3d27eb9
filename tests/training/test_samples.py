"""Samples and validation ROUGE-L: the same for the same weights, for every prompt and length."""

import itertools

import pytest
import torch
from small_models import small_model
from tiny_run import ASSETS, tiny_recipe

from distillens_plugin import run
from distillens_plugin.data.examples import load_examples
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.recipe.schema.data import DatasetSpec
from distillens_plugin.training.validation import (
    sample_answers,
    validation_rouge,
    validation_scores,
)
from eval_harness.shared.files.jsonl import write_jsonl

WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(ASSETS / "tokenizer"))


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory):
    return make_accelerator(load_recipe(tiny_recipe(tmp_path_factory.mktemp("recipe"))), None)


def dataset(folder, tokenizer, prompts):
    rows = [{"prompt": prompt, "output": WORDS} for prompt in prompts]
    write_jsonl(folder / "rows.jsonl", rows)
    spec = DatasetSpec(path=str(folder / "rows.jsonl"), max_length=120, max_prompt_length=60)
    return load_examples(spec, tokenizer, where="datasets.validation")


def scores(model, data, tokenizer, accelerator, *, max_new_tokens=24):
    rouge = validation_rouge(
        model, data, tokenizer, seed=1, max_new_tokens=max_new_tokens, accelerator=accelerator
    )
    answers = sample_answers(
        model, data, tokenizer, num_rows=len(data), max_new_tokens=max_new_tokens
    )
    return rouge, [answer.answer for answer in answers]


def sure_model(tokenizer, **more):
    """Says the words in turn, and after them its end token, whatever came before."""
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    order = [*ids, tokenizer.eos_token_id]
    vocab = len(tokenizer) + 8
    model = small_model("gpt2", layers=1, vocab=vocab, width=256, tied=False, **more)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_(), block.attn.c_proj.bias.zero_()
            block.mlp.c_proj.weight.zero_(), block.mlp.c_proj.bias.zero_()
        model.transformer.wpe.weight.zero_()
        model.lm_head.weight.zero_()
        for before, after in itertools.pairwise(order):
            model.lm_head.weight[after] += 3 * model.transformer.wte.weight[before]
    return model


def test_the_tokenizers_end_token_ends_an_answer_whatever_the_models_files_say(
    tmp_path, tokenizer, accelerator
):
    first = tokenizer(WORDS, add_special_tokens=False)["input_ids"][0]
    data = dataset(tmp_path, tokenizer, [tokenizer.decode([first])] * 3)
    model = sure_model(tokenizer)
    found = {}
    for own in (tokenizer.eos_token_id, 1, list(range(1, 2000))):
        model.config.eos_token_id = model.generation_config.eos_token_id = own
        model.generation_config.repetition_penalty = None if own == 1 else 3.0
        found[str(own)] = scores(model, data, tokenizer, accelerator)
    assert len({str(each) for each in found.values()}) == 1
    _, answers = found["1"]
    assert answers == [WORDS.removeprefix(tokenizer.decode([first])).strip()] * 3


@pytest.mark.parametrize("prompts", [["", "Say two.", ""], [""], ["", "", ""]], ids=str)
def test_rows_without_a_prompt_are_answered(tmp_path, tokenizer, accelerator, prompts):
    model = small_model("gpt2", layers=1, vocab=len(tokenizer))
    data = dataset(tmp_path, tokenizer, prompts)
    rouge, answers = scores(model, data, tokenizer, accelerator)
    assert 0 <= rouge <= 100
    assert len(answers) == len(prompts)
    assert len({text for text, prompt in zip(answers, prompts, strict=True) if not prompt}) == 1


@pytest.mark.parametrize(
    ("kind", "name"), [("gpt2", "n_positions"), ("opt", "max_position_embeddings")]
)
def test_answers_are_cut_at_the_models_positions(tmp_path, tokenizer, accelerator, kind, name):
    model = small_model(kind, layers=1, vocab=len(tokenizer), **{name: 40})
    data = dataset(tmp_path, tokenizer, ["a b c d e f g h i j k l m n o p", "a"])
    longest = max(len(row.prompt_ids) for row in data.rows)
    assert longest < 40
    _, answers = scores(model, data, tokenizer, accelerator, max_new_tokens=100)
    assert len(answers) == 2


def test_ids_beyond_the_tokenizer_are_no_part_of_an_answer(tmp_path, tokenizer, accelerator):
    model = small_model("gpt2", layers=1, vocab=len(tokenizer) + 64, tied=False)
    data = dataset(tmp_path, tokenizer, ["Say two.", "Say three."])
    before = scores(model, data, tokenizer, accelerator)
    with torch.no_grad():
        model.lm_head.weight[len(tokenizer) :] = 50 * model.lm_head.weight[:64]
    assert scores(model, data, tokenizer, accelerator) == before


def test_a_run_with_empty_prompts_short_positions_and_rouge_ends_well(tmp_path, capsys):
    rows = [{"prompt": "" if n else "Q: 1+1?\nA:", "output": "2"} for n in range(3)]
    write_jsonl(tmp_path / "valid.jsonl", rows)
    changes = [
        "models.student_model.init.config.n_positions=64",
        "datasets.train.max_length=64",
        "datasets.train.template=question",
        "datasets.train.max_prompt_length=56",
        "datasets.train.long_prompts=cut",
        "datasets.train.num_rows=8",
        f"datasets.validation={{path: {tmp_path / 'valid.jsonl'}, max_length: 64}}",
        "datasets.validation.max_prompt_length=32",
        "train.best_by=rougeL",
        "samples={num_rows: 3, max_new_tokens: 128}",
    ]
    line = [str(tiny_recipe(tmp_path)), *(part for each in changes for part in ("--set", each))]
    assert run.main(line) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("reference:\n") == 3


def test_validation_restores_the_mode_of_each_module(tokenizer, accelerator, tmp_path):
    """A module that the user froze in eval mode is still in it, though the model trains."""
    model = small_model("gpt2", layers=2, vocab=len(tokenizer)).train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    data = dataset(tmp_path, tokenizer, ["one two", "three"])
    validation_scores(model, data, batch_size=2, accelerator=accelerator)
    assert [module.training for module in model.modules()] == modes
