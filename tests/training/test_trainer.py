"""The runner's training step: normalised over windows and ranks, and equal to a loop by hand."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tiny_run import REPO, tiny_recipe
from transformers import AutoModelForCausalLM

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.integrations.torchdistill.optim import adamw, cosine, linear
from distillens_plugin.losses.weighted_sum import WeightedSum
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import DistillensError

SEQUENTIAL = "sampler: {class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}"


def sequential_recipe(folder, *, batch_size, accumulate=1, norm="final", terms=None):
    """A tiny recipe whose batches are the rows in order, without dropout."""
    path = tiny_recipe(folder)
    text = path.read_text(encoding="utf-8")
    text = text.replace("norm: final", f"norm: {norm}")
    text = text.replace(
        "  train_data_loader:\n    kwargs:\n      batch_size: 8",
        f"  train_data_loader:\n    {SEQUENTIAL}\n    kwargs:\n      batch_size: {batch_size}",
    )
    text = text.replace("    max_grad_norm: 1.0", f"    grad_accum_step: {accumulate}")
    text = text.replace("n_positions: 256", "n_positions: 256\n        resid_pdrop: 0.0")
    text = text.replace("resid_pdrop: 0.0", "resid_pdrop: 0.0\n        embd_pdrop: 0.0", 1)
    text = text.replace("embd_pdrop: 0.0", "embd_pdrop: 0.0\n        attn_pdrop: 0.0", 1)
    assert SEQUENTIAL in text
    assert "attn_pdrop" in text
    path.write_text(text, encoding="utf-8")
    return path


def first_gradients(path, out, *, processes=1):
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    script = str(REPO / "tests/scripts/first_gradients.py")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, script, str(path), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


def test_two_processes_of_batch_4_give_the_gradients_of_one_of_batch_8(tmp_path):
    whole = first_gradients(
        sequential_recipe(tmp_path / "one", batch_size=8), tmp_path / "whole.pt"
    )
    halves = first_gradients(
        sequential_recipe(tmp_path / "two", batch_size=4), tmp_path / "halves.pt", processes=2
    )
    quarters = first_gradients(
        sequential_recipe(tmp_path / "four", batch_size=2, accumulate=2),
        tmp_path / "quarters.pt",
        processes=2,
    )
    assert whole["num_rows"] == 8
    for other in (halves, quarters):
        assert other["num_rows"] == 4  # of the main process
        assert other["num_supervised"] == whole["num_supervised"]
        assert other["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert other["values"] == pytest.approx(whole["values"], rel=1e-5)
        for name, gradient in whole["gradients"].items():
            scale = gradient.abs().max().clamp_min(1e-6)
            assert (other["gradients"][name] - gradient).abs().max() < 1e-4 * scale, name


def build(path):
    recipe = load_recipe(path)
    accelerator = make_accelerator(recipe, None)
    return build_experiment(recipe, accelerator, load_data(recipe))


def log_probabilities(logits):
    return F.log_softmax(logits.float(), -1)


def hand_written_loss(student, teacher, batch, lens_norm):
    """FKL on the final logits, plus the lens at pairs 1-2 and 2-4 where `lens_norm` is given."""
    blocks = {}
    handles = [
        model.transformer.h[index].register_forward_hook(
            lambda module, args, output, key=(role, index): blocks.update({key: output})
        )
        for role, model, index in [
            ("s", student, 0),
            ("s", student, 1),
            ("t", teacher, 1),
            ("t", teacher, 3),
        ]
    ]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        teacher_logits = teacher(**inputs).logits
    student_logits = student(**inputs).logits
    for handle in handles:
        handle.remove()
    mask = batch["labels"][:, 1:] != -100
    log_p = log_probabilities(teacher_logits[:, :-1][mask])
    log_q = log_probabilities(student_logits[:, :-1][mask])
    loss = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    if lens_norm is None:
        return loss
    jsds = []
    for a, b in [(0, 1), (1, 3)]:
        hidden_s, hidden_t = blocks["s", a], blocks["t", b]
        if lens_norm == "final":
            hidden_s = student.transformer.ln_f(hidden_s)
            hidden_t = teacher.transformer.ln_f(hidden_t).detach()
        log_p = log_probabilities(teacher.lm_head(hidden_t)[:, :-1][mask]).detach()
        log_q = log_probabilities(student.lm_head(hidden_s)[:, :-1][mask])
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        jsd = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1) / 2
        jsds.append(jsd.mean())
    return loss + torch.stack(jsds).mean()


@pytest.mark.parametrize("norm", [None, "identity", "final"])
def test_fifty_steps_equal_a_hand_written_loop(tmp_path, norm):
    path = sequential_recipe(tmp_path, batch_size=4, norm=norm or "final")
    text = path.read_text(encoding="utf-8").replace("num_epochs: 1", "num_steps: 50")
    if norm is None:
        text = text[: text.index("        lens:\n")] + text[text.index("log_every:") :]
    path.write_text(text, encoding="utf-8")
    experiment = build(path)
    start = {n: p.clone() for n, p in experiment.student.state_dict().items()}
    trainer, box, ours = Trainer(experiment.box, experiment.accelerator), experiment.box, []
    epoch_batches = []
    while trainer.step_number < 50:
        box.pre_epoch_process(epoch=0)
        for window in windows(box.train_data_loader, 1, experiment.accelerator):
            ((batch, targets),) = window.batches
            epoch_batches.append({**batch, "labels": targets["labels"]})
            ours.append(trainer.step(window).loss)
            if trainer.step_number == 50:
                break

    student = AutoModelForCausalLM.from_config(experiment.student.config)
    student.load_state_dict(start)
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher").eval()
    for p in teacher.parameters():
        p.requires_grad_(False)
    decayed = [p for p in student.parameters() if p.dim() > 1]
    others = [p for p in student.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=2e-3,
    )
    expected = []
    for step, batch in enumerate(epoch_batches):
        lr = 1e-7 + (2e-3 - 1e-7) * 0.5 * (1 + math.cos(math.pi * step / 50))
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = hand_written_loss(student.train(), teacher, batch, norm)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert len(batch["input_ids"]) > 1
    assert ours[0] == pytest.approx(expected[0], abs=1e-6)
    assert ours[-1] == pytest.approx(expected[-1], abs=1e-5)
    assert expected[-1] < expected[0]


def test_weight_decay_leaves_out_biases_and_norms():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, others = adamw(model, lr=0.1, weight_decay=0.3).param_groups
    assert decayed["weight_decay"] == 0.3
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert others["weight_decay"] == 0.0
    assert len(others["params"]) == 3


@pytest.mark.parametrize(("schedule", "middle"), [(cosine, 0.55), (linear, 0.55)])
def test_schedules_warm_up_and_end_at_the_floor(schedule, middle):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, num_steps=14, warmup_steps=4, min_lr=0.1)
    rates = []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[9] == pytest.approx(middle)
    assert rates[14] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"mixed_precision": "bf16"},
        {"trackers": ["tensorboard"]},
        {
            "models": {
                "teacher_model": {"name_or_path": "TEACHER"},
                "student_model": {"init": {"from_teacher_layers": [0, 3]}},
            }
        },
        {
            "models": {
                "teacher_model": {"name_or_path": "TEACHER"},
                "student_model": {
                    "name_or_path": "TEACHER",
                    "lora": {"r": 2},
                    "gradient_checkpointing": True,
                },
            }
        },
    ],
    ids=["bf16", "tensorboard", "from_teacher_layers", "lora and checkpointing"],
)
def test_variants_train_and_leave_a_plain_model(tmp_path, change):
    text = json.dumps(change).replace("TEACHER", str(tmp_path / "teacher"))
    path = tiny_recipe(tmp_path, **json.loads(text))
    recipe = path.read_text(encoding="utf-8")
    path.write_text(recipe.replace("num_epochs: 1", "num_steps: 3"), encoding="utf-8")
    command = [sys.executable, "-m", "distillens_plugin.run", str(path)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "best")
    assert not hasattr(model, "peft_config")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    if "trackers" in change:
        assert list((tmp_path / "out" / "trackers").rglob("events.out.tfevents.*"))
    if "lora" in text:
        adapter = tmp_path / "out" / "best" / "adapter"
        assert (adapter / "adapter_config.json").exists()
        # An evaluation of the adapter alone compares its prompts with those of training.
        assert '"template": "alpaca"' in (adapter / "distillens.json").read_text(encoding="utf-8")


class MeanOfBatch(torch.nn.Module):
    """A mid-level loss of somebody else's: a mean over its own batch."""

    def forward(self, student_io_dict, teacher_io_dict, targets):
        return student_io_dict["x"].mean()


def test_a_foreign_mean_over_a_batch_weighs_by_its_supervised_tokens():
    loss = WeightedSum(sub_terms={"other": {"criterion": MeanOfBatch(), "weight": 1.0}})
    values = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([6.0])]
    total = 0.0
    for value in values:
        targets = {"positions": torch.arange(len(value)), "num_supervised": 4.0}
        total += loss({"student": {"x": value}, "teacher": {}}, {}, targets)
    assert total == pytest.approx(torch.cat(values).mean().item())


def test_a_foreign_mean_under_weighted_sum_loss_is_refused_where_batches_are_summed(tmp_path):
    path = tiny_recipe(tmp_path)
    text = path.read_text(encoding="utf-8").replace("distillens.weighted_sum", "WeightedSumLoss")
    text = text.replace("    max_grad_norm: 1.0", "    grad_accum_step: 2")
    wrapped = """        other:
          criterion: {key: MSELoss, kwargs: {}}
          criterion_wrapper:
            key: SimpleLossWrapper
            kwargs: {input: {is_from_teacher: false, module_path: '.', io: output}}
          weight: 1.0
"""
    text = text.replace("      sub_terms:\n", "      sub_terms:\n" + wrapped)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DistillensError, match=r"WeightedSumLoss with other.*weighted_sum"):
        build(path)


def test_all_masked_batches_of_every_process_are_counted():
    class SecondOfTwo:
        num_processes, device = 2, "cpu"

        def reduce(self, local, how):
            assert how == "sum"
            return local + torch.tensor([5.0, 2.0])  # of the other: 5 tokens, 2 empty batches

    batches = [({}, {"positions": torch.arange(count)}) for count in (3, 0)]
    (window,) = windows(batches, 2, SecondOfTwo())
    assert (window.num_supervised, window.num_all_masked) == (8.0, 3)


def test_an_all_masked_batch_is_counted_and_gives_no_gradient(tmp_path):
    experiment = build(sequential_recipe(tmp_path, batch_size=4))
    box = experiment.box
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    nothing = torch.empty(0, dtype=torch.int64)
    targets = {**targets, "positions": nothing, "next_tokens": nothing}
    before = [p.detach().clone() for p in box.student_model.parameters() if p.dim() < 2]
    (window,) = windows([(batch, targets)], 1, experiment.accelerator)
    result = Trainer(box, experiment.accelerator).step(window)
    assert (result.num_all_masked, result.loss) == (1, 0.0)
    after = [p for p in box.student_model.parameters() if p.dim() < 2]  # those without decay
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
