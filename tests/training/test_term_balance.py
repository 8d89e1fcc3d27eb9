"""`weight: auto`: what is measured, what the step sees of it, and what is kept."""

import copy
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from forked_run import MSE, TERMS, forked, kill_after_states, quick_recipe, what_it_left
from fsdp_on_cpu import ranks
from run_process import TWO_PROCESSES, change, distillens, records
from tiny_run import tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.losses.needs import Needs
from distillens_plugin.losses.term import Term
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.training.balance_place import places
from distillens_plugin.training.balance_steps import spread
from distillens_plugin.training.term_balance import TermBalance
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows
from eval_harness.errors import DistillensError, RunFailure

LENS = f"{TERMS}.lens"
LAYERS = f"{LENS}.criterion.kwargs.layers"
# A quarter of the run is 6 steps, and its second half is measured: steps 4, 5 and 6.
SIX_STEPS = {"train.num_epochs": None, "train.num_steps": 24}


@pytest.mark.parametrize(
    ("num_steps", "warmup_steps", "steps"),
    [
        (560, 100, [55, 60, 65, 70, 75, 80, 85, 90, 95, 100]),
        (560, 0, [6, 7, 8, 9, 10]),
        (560, 300, [77, 84, 91, 98, 105, 112, 119, 126, 133, 140]),
        (24, 12, [4, 5, 6]),
        (2, 0, [1]),
    ],
)
def test_the_second_half_of_the_warm_up_is_measured(num_steps, warmup_steps, steps):
    assert spread(num_steps, warmup_steps) == steps


def pairs(student, teacher):
    return {"student": [student], "teacher": [teacher]}


def without_dropout(folder, *, batch_size, accumulate=1, changes=()):
    """A tiny recipe with the lens's weight on auto, whose batches are the rows in order."""
    path = tiny_recipe(folder)
    sampler = "sampler: {class_or_func: !import_get {key: torch.utils.data.SequentialSampler}}"
    change(path, "train.train_data_loader.kwargs.batch_size", batch_size)
    change(path, "train.optimizer.grad_accum_step", accumulate)
    for name in ("resid", "embd", "attn"):
        change(path, f"models.student_model.init.config.{name}_pdrop", 0.0)
    change(path, f"{LENS}.weight", "auto")
    for key, value in dict(changes).items():
        change(path, key, value)
    change(path, "train.train_data_loader.sampler", "PLACE")
    text = path.read_text(encoding="utf-8")
    assert "    sampler: PLACE" in text
    path.write_text(text.replace("sampler: PLACE", sampler), encoding="utf-8")
    return path


def build(path):
    recipe = load_recipe(path)
    accelerator = make_accelerator(recipe, None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    experiment.box.pre_epoch_process(epoch=0)
    return experiment


def first_windows(experiment):
    box = experiment.box
    return list(windows(box.train_data_loader, box.grad_accum_step, experiment.accelerator))


def gradients_by_hand(student, teacher, window):
    """|gradient| of FKL on the final logits and of the lens at pair 1-2, at the first block."""
    norms = {}
    for name in ("kd", "lens"):
        model, total = copy.deepcopy(student).train(), 0.0
        for batch, targets in window.batches:
            inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
            with torch.no_grad():
                theirs = teacher(**inputs, output_hidden_states=True)
            ours = model(**inputs, output_hidden_states=True)
            p_logits, q_logits = theirs.logits, ours.logits
            if name == "lens":
                p_logits = teacher.lm_head(teacher.transformer.ln_f(theirs.hidden_states[2]))
                q_logits = model.lm_head(model.transformer.ln_f(ours.hidden_states[1]))
            mask = targets["labels"][:, 1:] != -100
            p = F.log_softmax(p_logits[:, :-1][mask].detach(), -1)
            q = F.log_softmax(q_logits[:, :-1][mask], -1)
            values = (p.exp() * (p - q)).sum(-1)
            if name == "lens":
                m = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
                values = ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2
            total = total + values.sum() / window.num_supervised
        total.backward()
        squares = [p.grad.square().sum() for p in model.transformer.h[0].parameters()]
        norms[name] = torch.stack(squares).sum().sqrt().item()
    return norms


@pytest.mark.parametrize("criterion", ["distillens.weighted_sum", "WeightedSumLoss"])
def test_the_weight_is_the_median_ratio_of_the_gradients_norms(tmp_path, criterion):
    changes = {
        **SIX_STEPS,
        "train.criterion.key": criterion,
        f"{TERMS}.kd.weight": 2.0,
        LAYERS: pairs(1, 2),
    }
    path = without_dropout(tmp_path, batch_size=2, accumulate=2, changes=changes)
    experiment = build(path)
    experiment.student.double()
    experiment.teacher.double()
    assert {name: place.path for name, place in places(experiment).items()} == {
        "lens": "transformer.h.0"
    }
    balance = TermBalance(experiment)
    trainer = Trainer(experiment.box, experiment.accelerator, balance=balance)
    ratios = []
    for step, window in enumerate(first_windows(experiment), start=1):
        if step >= 4:
            expected = gradients_by_hand(experiment.student, experiment.teacher, window)
            ratios.append(2.0 * expected["kd"] / expected["lens"])
        result = trainer.step(window)
        weight = sorted(ratios)[1] if step == 6 else 1.0
        assert result.values["weight/lens"] == pytest.approx(weight, rel=1e-9)
        # torchdistill's sum keeps no value of a whole term; here it is that of its one pair.
        total = 2.0 * result.values["kd"] + weight * result.values["lens/1-2"]
        assert result.loss == pytest.approx(total, rel=1e-5)
    assert len(ratios) == balance.num_measured == 3
    assert balance.weights() == {"lens": pytest.approx(weight, rel=1e-12)}
    assert max(ratios) / min(ratios) > 1.001


def with_projection(folder):
    """Dropout, a trained projection whose weight is measured too, windows of two batches.

    12 steps, of which the second and the third are measured.
    """
    path = quick_recipe(folder, num_epochs=4)
    change(path, "train.train_data_loader.kwargs.batch_size", 1)
    change(path, "train.optimizer.grad_accum_step", 2)
    change(path, f"{TERMS}.mse", {**MSE, "weight": "auto"})
    change(path, f"{LENS}.weight", "auto")
    change(path, "log_every", 1)
    return path


def test_a_step_sees_nothing_of_the_measuring_but_the_weight(tmp_path):
    path = with_projection(tmp_path)
    experiment = build(path)
    trainer = Trainer(experiment.box, experiment.accelerator, balance=TermBalance(experiment))
    used = [trainer.step(window).values for window in first_windows(experiment)]
    again = build(path)
    terms = again.box.criterion.term_dict
    trainer = Trainer(again.box, again.accelerator)
    for step, (window, values) in enumerate(zip(first_windows(again), used, strict=True), 1):
        for name in ("lens", "mse"):
            assert (values[f"weight/{name}"] == 1) == (step < 3)
            terms[name] = (terms[name][0], values[f"weight/{name}"])
        trainer.step(window)
    for (name, ours), theirs in zip(
        experiment.student.state_dict().items(), again.student.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_run_killed_while_it_measures_ends_as_one_that_was_not(tmp_path):
    path = with_projection(tmp_path)
    change(path, "train.save_every", 1)
    place = {"output": tmp_path / "out", "log": tmp_path / "log"}
    done = forked(path, **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "weight of lens: 1 until step 3, then " in done.stdout
    assert "by their gradients at layer 2, up to step 3; 1 until then" in done.stdout
    assert "lens: layer pairs 1-2 2-4 (student-teacher), weight auto" in done.stdout
    whole = what_it_left(tmp_path / "out")
    last = whole["records"][-2]
    assert whole["summary"]["weights"] == {
        name: pytest.approx(last[f"weight/{name}"], rel=1e-12) for name in ("lens", "mse")
    }
    shutil.rmtree(tmp_path / "out")
    ended = forked(path, **place, before=kill_after_states(2))
    assert ended.returncode == -9, ended.stderr
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming within epoch 1, after step 2" in done.stdout
    assert what_it_left(tmp_path / "out") == whole


def test_ranks_measure_what_one_process_does(tmp_path):
    found = {}
    changes = {"datasets.validation": None, "train.num_epochs": None, "train.num_steps": 2}
    for name, batch_size in (("one", 8), ("ddp", 4), ("fsdp", 4)):
        path = without_dropout(tmp_path / name, batch_size=batch_size, changes=changes)
        out = tmp_path / name / "out"
        if name == "fsdp":
            done = ranks("fsdp_run.py", path, "--output_dir", out)
        elif name == "ddp":
            done = distillens(path, launcher=TWO_PROCESSES)
        else:
            done = forked(path, output=out)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = [record["weight/lens"] for record in records(out)]
        assert len(found[name]) == 2
        assert json.loads((out / "summary.json").read_text())["weights"]["lens"] > 0
    for name in ("ddp", "fsdp"):
        assert found[name] == pytest.approx(found["one"], rel=1e-4)
    assert found["one"][0] == found["one"][1] != 1


class Sometimes(Term):
    """The mean square of the final states, times the next of some factors."""

    needs = Needs(final_states=True)
    needs_teacher = False

    def __init__(self, *factors):
        super().__init__()
        self.factors = list(factors)

    def value(self, reading):
        rows = reading.student.final_rows(reading.supervised)
        return self.factors.pop(0) * rows.square().mean()


def test_a_gradient_that_is_none_is_left_out_and_told_and_fails_if_none_comes(tmp_path, capsys):
    experiment = build(without_dropout(tmp_path, batch_size=8, changes=SIX_STEPS))
    window = first_windows(experiment)[0]
    terms = experiment.box.criterion.term_dict
    terms["lens"] = (Sometimes(float("inf"), 1.0, 0.0), 1.0)
    balance = TermBalance(experiment)
    for step in (1, 2, 3, 4, 5):
        balance.before_step(window, step)
        assert terms["lens"][1] == 1
    assert (
        "step 4: weight of lens not measured (gradients at layer 2: kd" in capsys.readouterr().out
    )
    balance.before_step(window, 6)
    weight = terms["lens"][1]
    assert 0 < weight != 1
    said = f"weight of lens: 1 until step 6, then {weight:.4g} (median of 1 ratio"
    assert said in capsys.readouterr().out

    terms["lens"] = (Sometimes(0.0, 0.0, 0.0), 1.0)
    balance = TermBalance(experiment)
    balance.before_step(window, 4)
    balance.before_step(window, 5)
    with pytest.raises(RunFailure, match=r"step 6: the weight of lens is auto, but none of the 3"):
        balance.before_step(window, 6)
    assert all(p.grad is None for p in experiment.student.parameters())


def test_blocks_that_are_frozen_are_passed_over_and_terms_below_all_blocks_refused(tmp_path):
    def built(name, layers):
        changes = {LAYERS: layers}
        return build(without_dropout(tmp_path / name, batch_size=8, changes=changes))

    experiment = built("blocks", {"student": [0, 2], "teacher": [0, 4]})
    assert places(experiment)["lens"].layer == 2
    for parameter in experiment.student.transformer.h[1].parameters():
        parameter.requires_grad_(False)
    assert places(experiment)["lens"].layer == 1
    # The stream within a block has passed through the one below it alone.
    assert places(built("within", pairs("transformer.h.1.attn", 2)))["lens"].layer == 1
    with pytest.raises(DistillensError, match=r"weight: found auto, .* reads layer 0, and no"):
        places(built("none", pairs(0, 0)))
    with pytest.raises(DistillensError, match=r"reads transformer\.drop, which is in no block"):
        places(built("outside", pairs("transformer.drop", 0)))
