"""On-policy distillation: which rows are sampled, from what, and that both models score them."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny_run import REPO, tiny_recipe

from distillens_plugin import run
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.on_policy.loader import OnPolicyLoader, Share
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import DistillensError
from eval_harness.shared.batching import batching_of
from eval_harness.shared.files.jsonl import write_jsonl

ADAPTIVE = SimpleNamespace(share=0.0, schedule="adaptive", step=0.4, tolerance=0.1)


def build(folder, *changes):
    """An experiment whose student samples; the first batch is drawn without sampling."""
    settings = "{share: 1.0, max_new_tokens: 6}"
    recipe = load_recipe(
        tiny_recipe(folder),
        ["datasets.validation=null", f"train.on_policy={settings}", *changes],
    )
    accelerator = make_accelerator(recipe, None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    loader = experiment.box.train_data_loader
    assert isinstance(loader, OnPolicyLoader)
    batch, targets = next(iter(loader.loader))
    return experiment, loader, batch, targets


def prompts_of(batch, targets):
    prompts = []
    for ids, labels in zip(batch["input_ids"].tolist(), targets["labels"].tolist(), strict=True):
        prompts.append(ids[: next(i for i, label in enumerate(labels) if label != -100)])
    return prompts


def answers_of(batch, targets):
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = batch["input_ids"].tolist()
    return [
        row[len(prompt) : length]
        for row, prompt, length in zip(rows, prompts_of(batch, targets), lengths, strict=True)
    ]


def test_sampled_rows_keep_their_prompt_and_are_supervised_on_the_answer(tmp_path):
    _, loader, batch, targets = build(tmp_path)
    new_batch, new_targets = loader.with_samples(batch, targets)
    assert prompts_of(new_batch, new_targets) == prompts_of(batch, targets)
    assert new_targets["row_ids"] == targets["row_ids"]
    answers = answers_of(new_batch, new_targets)
    assert all(1 <= len(answer) <= 6 for answer in answers)
    assert answers != answers_of(batch, targets)
    assert loader.num_sampled == len(answers)
    assert new_targets["positions"].numel() == sum(map(len, answers))
    assert new_targets["next_tokens"].tolist() == [token for answer in answers for token in answer]


def test_samples_follow_the_students_distribution(tmp_path):
    """With a nucleus that only the likeliest token fits in, a sample is the greedy answer."""
    experiment, loader, batch, targets = build(
        tmp_path, "train.on_policy={share: 1.0, max_new_tokens: 4, top_p: 1e-6}"
    )
    student = experiment.student.eval()
    answers = answers_of(*loader.with_samples(batch, targets))
    eos = experiment.tokenizer.eos_token_id
    for prompt, answer in zip(prompts_of(batch, targets), answers, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 4 and ids[len(prompt) :][-1:] != [eos]:
            with torch.no_grad():
                ids.append(int(student(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == ids[len(prompt) :]


def test_samples_depend_on_seed_epoch_and_rows_alone(tmp_path):
    experiment, loader, batch, targets = build(tmp_path)
    experiment.student.train()
    frozen = experiment.student.transformer.h[0].eval()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = answers_of(*loader.with_samples(batch, targets))
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    assert answers_of(*loader.with_samples(batch, targets)) == first
    assert experiment.student.training
    assert not frozen.training
    loader.set_epoch(1)
    assert answers_of(*loader.with_samples(batch, targets)) != first


def test_the_share_of_rows_is_as_asked_and_other_rows_stay(tmp_path):
    _, loader, batch, targets = build(tmp_path, "train.on_policy.share=0.3")
    chosen = [loader._is_chosen(f"row {n}") for n in range(4000)]
    assert abs(sum(chosen) / 4000 - 0.3) < 0.03
    loader.set_epoch(1)
    assert [loader._is_chosen(f"row {n}") for n in range(4000)] != chosen
    mixed = loader.with_samples(batch, targets)
    before, after = answers_of(batch, targets), answers_of(*mixed)
    for row_id, old, new in zip(targets["row_ids"], before, after, strict=True):
        assert (old == new) == (not loader._is_chosen(row_id))
    loader.share.value = 0.0
    assert loader.with_samples(batch, targets) == (batch, targets)


def test_answers_end_with_their_end_token_and_stay_within_max_length(tmp_path, monkeypatch):
    experiment, loader, batch, targets = build(tmp_path)
    eos, prompts = experiment.tokenizer.eos_token_id, prompts_of(batch, targets)
    loader.max_length = max(map(len, prompts)) + 5
    asked = []
    batching_of(experiment.student.eval())  # tried once, by generate itself

    def generate(input_ids, attention_mask, generation_config, logits_processor, synced_gpus):
        assert not synced_gpus
        asked.append(input_ids.shape[1] + generation_config.max_new_tokens)
        assert attention_mask.sum(1).tolist() == list(map(len, prompts))
        answer = torch.tensor([[5, 6, 7, eos, 8]]).expand(len(input_ids), -1)
        return torch.cat([input_ids, answer], 1)

    monkeypatch.setattr(experiment.student, "generate", generate)
    answers = answers_of(*loader.with_samples(batch, targets))
    assert answers == [[5, 6, 7, eos]] * len(prompts)
    assert asked == [loader.max_length]


@pytest.mark.parametrize(("positions", "expected"), [(128, 128), (512, 256)])
def test_the_positions_of_both_models_limit_the_answers_too(tmp_path, positions, expected):
    rows = [{"id": str(n), "instruction": "Add.", "output": "Two."} for n in range(8)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    _, loader, _, _ = build(
        tmp_path,
        f"datasets.train.path={tmp_path / 'rows.jsonl'}",
        "datasets.train.max_length=600",
        f"models.student_model.init.config.n_positions={positions}",
    )
    assert loader.max_length == expected  # the teacher has 256


def test_a_supervised_prompt_stays_supervised(tmp_path):
    experiment, loader, batch, targets = build(tmp_path, "datasets.train.loss_on_prompt=true")
    new_batch, new_targets = loader.with_samples(batch, targets)
    prompts = {row.id: row.prompt_ids for row in experiment.train.rows}
    lengths = new_batch["attention_mask"].sum(1).tolist()
    rows = zip(new_targets["row_ids"], new_batch["input_ids"].tolist(), lengths, strict=True)
    for index, (row_id, ids, length) in enumerate(rows):
        prompt = prompts[row_id]
        assert ids[: len(prompt)] == prompt
        assert len(prompt) < length <= len(prompt) + 6
        assert new_targets["labels"][index].tolist()[:length] == ids[:length]


def test_rows_of_one_id_with_two_prompts_are_refused(tmp_path):
    rows = [{"id": "a", "instruction": text, "output": "x"} for text in ("one", "two")]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DistillensError, match="two rows have the id 'a' and different prompts"):
        build(tmp_path, f"datasets.train.path={tmp_path / 'rows.jsonl'}")


def test_rows_without_a_prompt_are_sampled_from_the_first_token_on(tmp_path):
    texts = ["Say two.", ""] * 4
    rows = [{"id": str(n), "prompt": text, "output": "Two."} for n, text in enumerate(texts)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    path = f"datasets.train.path={tmp_path / 'rows.jsonl'}"
    experiment, loader, batch, targets = build(tmp_path, path)
    new_batch, new_targets = loader.with_samples(batch, targets)
    assert loader.num_sampled == 8
    first = experiment.tokenizer.bos_token_id
    first = experiment.tokenizer.eos_token_id if first is None else first
    for row_id, prompt in zip(targets["row_ids"], prompts_of(new_batch, new_targets), strict=True):
        assert (prompt == [first]) == (int(row_id) % 2 == 1)
    assert all(1 <= len(answer) <= 6 for answer in answers_of(new_batch, new_targets))
    write_jsonl(tmp_path / "rows.jsonl", rows[1::2])
    _, loader, batch, targets = build(tmp_path, path)
    loader.with_samples(batch, targets)
    assert loader.num_sampled == 4


def test_answers_hold_no_id_that_only_the_student_has(tmp_path):
    """The teacher has no row for an id of the student's padding, and would fail on it."""
    changes = ["train.on_policy.temperature=20.0", "train.criterion.kwargs.sub_terms.lens=null"]
    changes.append("models.student_model.init.config.vocab_size=40960")
    experiment, loader, _, _ = build(tmp_path, *changes)
    experiment.box.pre_epoch_process(epoch=0)
    window = next(windows(loader, 1, experiment.accelerator))
    ((batch, _),) = window.batches
    assert loader.num_sampled == len(batch["input_ids"])
    assert batch["input_ids"].max() < len(experiment.tokenizer)
    result = Trainer(experiment.box, experiment.accelerator).step(window)
    assert result.loss == result.loss


def test_what_ends_an_answer_and_how_it_is_sampled_is_not_the_models_files(tmp_path):
    experiment, loader, batch, targets = build(tmp_path)
    expected = answers_of(*loader.with_samples(batch, targets))
    for name, value in {
        "eos_token_id": list(range(2, 900)),
        "min_p": 0.99,
        "suppress_tokens": list(range(100)),
        "repetition_penalty": 9.0,
        "top_h": 0.1,
    }.items():
        setattr(experiment.student.generation_config, name, value)
    assert answers_of(*loader.with_samples(batch, targets)) == expected


def test_both_models_score_the_samples(tmp_path):
    """The step's forward KL is the float64 formula on the sampled batch."""
    experiment, loader, _, _ = build(
        tmp_path,
        "train.criterion.kwargs.sub_terms.lens=null",
        "models.student_model.init.config={model_type: gpt2, n_layer: 2, n_embd: 24, n_head: 2, "
        "n_positions: 256, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0}",
    )
    box, accelerator = experiment.box, experiment.accelerator
    box.pre_epoch_process(epoch=0)
    window = next(windows(box.train_data_loader, 1, accelerator))
    ((batch, targets),) = window.batches
    assert loader.num_sampled == len(batch["input_ids"])
    assert window.num_supervised == sum(map(len, answers_of(batch, targets)))
    mask = targets["labels"][:, 1:] != -100
    with torch.no_grad():
        log_p, log_q = (
            torch.log_softmax(model(**batch).logits[:, :-1][mask].double(), -1)
            for model in (experiment.teacher, experiment.student)
        )
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    assert Trainer(box, accelerator).step(window).loss == pytest.approx(expected.item(), rel=1e-5)


def test_the_adaptive_share_grows_when_the_validation_loss_rises():
    share = Share(ADAPTIVE)
    shares = []
    for loss in (3.0, 2.5, 3.05, 3.2, 3.25, 3.5, 4.0):
        share.after_validation(loss)
        shares.append(share.value)
    # 3.2 is 0.1 above 3.0; then the mark is 3.2, which 3.25 does not reach and 3.5 does.
    assert shares == pytest.approx([0, 0, 0, 0.4, 0.4, 0.8, 1.0])
    fixed = Share(SimpleNamespace(**{**vars(ADAPTIVE), "share": 0.5, "schedule": "fixed"}))
    for loss in (1.0, 9.0):
        fixed.after_validation(loss)
    assert fixed.value == 0.5


def test_a_run_with_an_adaptive_share_logs_it(tmp_path, capsys):
    fragment = REPO / "recipes" / "methods" / "on_policy_adaptive.yaml"
    changes = ["train.on_policy.share=0.5", "train.on_policy.max_new_tokens=4"]
    # A tolerance far below any change of the loss, and a rate that makes the loss rise.
    changes += ["train.on_policy.tolerance=1e-9", "train.optimizer.kwargs.lr=3.0"]
    changes += ["train.num_epochs=2", "datasets.train.num_rows=8", "datasets.validation.num_rows=2"]
    line = [str(tiny_recipe(tmp_path)), "--with", str(fragment), "--output_dir"]
    line += [str(tmp_path / "run")]
    for change in changes:
        line += ["--set", change]
    assert run.main(line) == 0
    assert "the student answers 50% of the rows itself (adaptive)" in capsys.readouterr().out
    records = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [r["validation_loss"] for r in records if "validation_loss" in r]
    shares = [r["on_policy_share"] for r in records if "on_policy_share" in r]
    expected, value, mark = [], 0.5, losses[0]
    for loss in losses[1:]:
        if loss >= mark + 1e-9:
            value, mark = value + 0.1, loss
        expected.append(value)
    assert shares == pytest.approx(expected)
    assert shares[-1] > 0.5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.on_policy={share: 0}", "a fixed share of 0, which samples nothing"),
        ("train.on_policy={share: 2}", "expected a number from 0 to 1"),
        ("train.on_policy={top_p: 0}", "expected a number in (0, 1]"),
        ("models.teacher_model=null", "compares with a teacher"),
        ("teacher_cache={path: x}", "newly sampled answers (on_policy)"),
        (
            "train.criterion.kwargs.sub_terms.ce={criterion: {key: distillens.cross_entropy}}",
            "sub_terms.ce: cross-entropy would teach the student its own sampled answers",
        ),
    ],
)
def test_what_does_not_go_with_on_policy_is_refused(tmp_path, change, expected):
    with pytest.raises(DistillensError) as caught:
        load_recipe(tiny_recipe(tmp_path), ["train.on_policy={share: 0.5}", change])
    assert expected in str(caught.value)


def test_a_collate_function_of_one_s_own_is_refused(tmp_path, monkeypatch):
    # A module of the user's registers the name, so it is not refused as unknown.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_collate.py").write_text(
        "from torchdistill.datasets.registry import register_collate_func\n"
        "register_collate_func(key='mine')(list)\n"
    )
    changes = ["train.on_policy={share: 0.5}", "train.train_data_loader.collate_fn=mine"]
    changes.append("dependencies=[{name: distillens_plugin}, {name: my_collate}]")
    with pytest.raises(DistillensError, match=r"on_policy needs distillens\.collate"):
        load_recipe(tiny_recipe(tmp_path), changes, True)


def test_adaptive_needs_validation_data_and_any_of_it_a_teacher(tmp_path):
    adaptive = "train.on_policy={schedule: adaptive}"
    with pytest.raises(DistillensError, match=r"adaptive without datasets\.validation"):
        load_recipe(tiny_recipe(tmp_path), [adaptive, "datasets.validation=null"])
    sft = REPO / "recipes" / "methods" / "sft.yaml"
    tokenizer = f"models.student_model.tokenizer={tmp_path / 'teacher'}"
    with pytest.raises(DistillensError, match="no teacher to score the student's answers"):
        load_recipe(tiny_recipe(tmp_path), [adaptive, tokenizer], fragments=[sft])
