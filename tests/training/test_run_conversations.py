"""Whole runs on conversations: scored, answered by the student, and packed."""

import pytest
from chat_tokenizers import FOLDER
from run_process import change
from small_tokenizers import SIGNS
from tiny_run import save_tiny_model, tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.on_policy.loader import OnPolicyLoader
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.run import main
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.shared.files.jsonl import write_jsonl

LOADER = "train.train_data_loader"


def conversations(num_rows):
    """Two questions each, in both forms."""
    for number in range(num_rows):
        asked = [f"What is {number} and {other}?" for other in (1, 2)]
        said = [f"It is {number + other}." for other in (1, 2)]
        if number % 2:
            texts = [asked[0], said[0], asked[1], said[1]]
            speakers = ("human", "gpt", "human", "gpt")
            turns = zip(speakers, texts, strict=True)
            yield {"conversations": [{"from": who, "value": text} for who, text in turns]}
        else:
            yield {
                "messages": [
                    {"role": "user", "content": asked[0]},
                    {"role": "assistant", "content": said[0]},
                    {"role": "user", "content": asked[1]},
                    {"role": "assistant", "content": said[1]},
                ]
            }


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conversations")
    teacher = save_tiny_model(folder / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_tokens(SIGNS, special_tokens=True)
    tokenizer.chat_template = (FOLDER / "chatml.jinja").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(teacher)
    write_jsonl(folder / "train.jsonl", conversations(24))
    path = tiny_recipe(folder)
    train = {"path": "./train.jsonl", "template": "chat", "max_length": 128}
    change(path, "datasets.train", {**train, "max_prompt_length": 100})
    change(path, "datasets.validation", {"path": "./train.jsonl", "num_rows": 4})
    change(path, "models.student_model.tokenizer", str(teacher))
    for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        change(path, f"models.student_model.init.config.{key}", 0.0)
    return path


def built(path, *changes):
    recipe = load_recipe(str(path), list(changes))
    accelerator = make_accelerator(recipe, None)
    return build_experiment(recipe, accelerator, load_data(recipe)), accelerator


def first_step(path, *changes):
    """Over all rows at once."""
    experiment, accelerator = built(path, f"{LOADER}.kwargs.batch_size=24", *changes)
    box = experiment.box
    trainer = Trainer(box, accelerator)
    box.pre_epoch_process(epoch=0)
    window = next(iter(windows(box.train_data_loader, 1, accelerator)))
    return trainer.step(window)


def test_a_run_scores_and_shows_answers_to_the_first_question(recipe, capsys):
    assert main([str(recipe), "--set", "train.best_by=rougeL"]) == 0
    printed = capsys.readouterr().out
    assert "24 rows read, 24 kept" in printed
    assert "responses end with '<|im_end|>'" in printed
    prompt = printed.partition("prompt:")[2].partition("answer:")[0]
    assert prompt.count("<|im_start|>") == 2
    assert "It is 1." in printed.partition("reference")[2]


def test_the_student_answers_the_last_question_of_a_whole_conversation(recipe):
    changes = ["train.on_policy={share: 1.0, max_new_tokens: 4}", "datasets.validation=null"]
    experiment, _ = built(recipe, "datasets.train.supervise=last_turn", *changes)
    loader = experiment.box.train_data_loader
    assert isinstance(loader, OnPolicyLoader)
    batch, targets = next(iter(loader.loader))
    sampled, sampled_targets = loader.with_samples(batch, targets)
    for ids, labels, row_id in zip(
        sampled["input_ids"].tolist(),
        sampled_targets["labels"].tolist(),
        sampled_targets["row_ids"],
        strict=True,
    ):
        (row,) = [row for row in experiment.train.rows if row.id == row_id]
        start = len(row.prompt_ids)
        assert ids[:start] == row.prompt_ids
        assert labels[:start] == [-100] * start
        assert 1 <= sum(label != -100 for label in labels) <= 4
        text = experiment.tokenizer.decode(row.prompt_ids)
        assert text.count("<|im_end|>") == 3


@pytest.mark.parametrize("supervise", ["all_turns", "last_turn"])
def test_packed_conversations_have_the_loss_of_padded_ones(recipe, supervise):
    choice = f"datasets.train.supervise={supervise}"
    padded = first_step(recipe, choice)
    packed = first_step(recipe, choice, f"{LOADER}.packing=true")
    assert packed.loss == pytest.approx(padded.loss, abs=1e-5)
    assert packed.num_supervised == padded.num_supervised
    assert packed.num_tokens == padded.num_tokens
