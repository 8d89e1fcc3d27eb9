"""The losses in torchdistill's own DistillationBox, from the README's YAML, without our runner."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from boxes import Rows, build_box, load_box_recipe
from torch.utils._python_dispatch import TorchDispatchMode

from eval_harness.errors import DistillensError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe_path(tmp_path):
    """box.yaml, exactly as the README shows it."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(# box\.yaml.*?)```", readme, re.DOTALL)
    assert block, "the README shows no box.yaml"
    path = tmp_path / "box.yaml"
    path.write_text(block.group(1), encoding="utf-8")
    return path


@pytest.fixture
def recipe(recipe_path):
    return load_box_recipe(recipe_path)


def sub_terms(recipe):
    return recipe["train"]["criterion"]["kwargs"]["sub_terms"]


def first_batch(box):
    return next(iter(box.train_data_loader))


def gradients(box):
    return {name: p.grad.clone() for name, p in box.student_model.named_parameters()}


def assert_same_gradients(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    for name, gradient in left.items():
        scale = right[name].abs().max().clamp_min(1e-3)
        assert (gradient - right[name]).abs().max() <= tolerance * scale, name


def log_softmax64(logits):
    return torch.log_softmax(logits.double(), -1)


def expected_loss(box, batch, targets, norm):
    """0.5 CE + RKL + mean over pairs of JSD, from transformers' own outputs, in float64."""
    teacher, student = box.teacher_model.eval(), box.student_model
    with torch.no_grad():
        t = teacher(**batch, output_hidden_states=True)
        s = student(**batch, output_hidden_states=True)
    mask = targets["labels"][:, 1:] != -100

    def at(hidden):
        return hidden[:, :-1][mask]

    log_q, log_p = log_softmax64(at(s.logits)), log_softmax64(at(t.logits))
    labels = targets["labels"][:, 1:][mask]
    ce = -log_q.gather(1, labels[:, None]).mean()
    rkl = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    jsds = []
    seen = {}
    for model, path in [(student, "transformer.h.1"), (teacher, "transformer.h.3")]:
        # transformers' last hidden state is normed already: take the last block's own output.
        handle = model.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: seen.update({path: output})
        )
        with torch.no_grad():
            model(**batch)
        handle.remove()
    streams = [
        (s.hidden_states[1], t.hidden_states[2]),
        (seen["transformer.h.1"], seen["transformer.h.3"]),
    ]
    for hidden_s, hidden_t in streams:
        if norm == "final":
            hidden_s = student.transformer.ln_f(hidden_s)
            hidden_t = teacher.transformer.ln_f(hidden_t)
        log_q = log_softmax64(at(student.lm_head(hidden_s)))
        log_p = log_softmax64(at(teacher.lm_head(hidden_t)))
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
        jsd = 0.5 * (log_p.exp() * (log_p - log_m)).sum(-1)
        jsd = jsd + 0.5 * (log_q.exp() * (log_q - log_m)).sum(-1)
        jsds.append(jsd.mean())
    return 0.5 * ce + rkl + torch.stack(jsds).mean()


@pytest.mark.parametrize("norm", ["identity", "final"])
def test_loss_equals_the_formula_on_a_batch_of_several_rows(recipe, norm):
    sub_terms(recipe)["lens"]["criterion"]["kwargs"]["norm"] = norm
    box = build_box(recipe)
    batch, targets = first_batch(box)
    assert len(batch["input_ids"]) == 4
    loss = box.forward_process(batch, targets)
    torch.testing.assert_close(
        loss.double(), expected_loss(box, batch, targets, norm), rtol=1e-5, atol=1e-6
    )


def test_training_in_the_box_lowers_the_loss(recipe):
    box = build_box(recipe)
    losses = []
    for epoch in range(6):
        box.pre_epoch_process(epoch=epoch)
        for batch, targets in box.train_data_loader:
            loss = box.forward_process(batch, targets)
            box.post_forward_process(loss=loss)
            losses.append(loss.item())
        box.post_epoch_process()
    assert losses[-1] < 0.8 * losses[0]


def test_box_runs_with_an_accelerator_and_a_frozen_teacher(recipe):
    box = build_box(recipe, accelerator=Accelerator(cpu=True))
    before = [p.detach().clone() for p in box.student_model.parameters()]
    box.pre_epoch_process(epoch=0)
    for batch, targets in box.train_data_loader:
        box.post_forward_process(loss=box.forward_process(batch, targets))
    assert all(p.grad is None for p in box.teacher_model.parameters())
    after = list(box.student_model.parameters())
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("tied", "norm", "lens_only"),
    [("tied", "identity", False), ("untied", "final", False), ("untied", "identity", True)],
)
def test_two_ranks_hold_equal_gradients(recipe_path, tmp_path, tied, norm, lens_only):
    if lens_only:
        text = recipe_path.read_text(encoding="utf-8")
        text = re.sub(r"\n +(ce|kd): .*", "", text).replace(
            "{student: [1, 2], teacher: [2, 4]}", "{student: [1], teacher: [2]}"
        )
        assert "logits_kd" not in text
        recipe_path.write_text(text, encoding="utf-8")
    script = [REPO / "tests/scripts/ddp_box.py", recipe_path, tied, norm, tmp_path]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, *map(str, script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    assert ranks[0]["row_ids"] != ranks[1]["row_ids"]
    assert_same_gradients(ranks[0]["gradients"], ranks[1]["gradients"], tolerance=0.0)
    # And they are the mean of what each rank's batch gives alone: nothing was left unsynchronised.
    alone = []
    for rank in ranks:
        recipe = load_box_recipe(recipe_path)
        sub_terms(recipe)["lens"]["criterion"]["kwargs"]["norm"] = norm
        rows = Rows()
        rows.examples = [e for e in rows.examples if e["id"] in rank["row_ids"]]
        box = build_box(recipe, tied=tied == "tied", dataset=rows)
        batch, targets = first_batch(box)
        box.forward_process(batch, targets).backward()
        alone.append(gradients(box))
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    assert_same_gradients(ranks[0]["gradients"], mean)


@pytest.mark.parametrize("forward_proc", ["distillens.forward", "distillens.forward_with_logits"])
def test_one_shared_walk_equals_each_term_alone(recipe, forward_proc):
    values, all_gradients = [], []
    for key in ("WeightedSumLoss", "distillens.weighted_sum"):
        recipe["train"]["criterion"]["key"] = key
        recipe["train"]["student"]["forward_proc"] = forward_proc
        recipe["train"]["teacher"]["forward_proc"] = forward_proc
        box = build_box(recipe)
        batch, targets = first_batch(box)
        loss = box.forward_process(batch, targets)
        loss.backward()
        values.append(loss.item())
        all_gradients.append(gradients(box))
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert_same_gradients(all_gradients[0], all_gradients[1])


def test_weighted_sum_reports_each_term_and_each_layer_pair(recipe):
    recipe["train"]["criterion"]["key"] = "distillens.weighted_sum"
    box = build_box(recipe)
    batch, targets = first_batch(box)
    loss = box.forward_process(batch, targets)
    terms = box.criterion.last_terms
    assert set(terms) == {"ce", "kd", "lens"}
    total = 0.5 * terms["ce"] + terms["kd"] + terms["lens"]
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    lens = box.criterion.term_dict["lens"][0]
    assert set(lens.last_values) == {"lens/1-2", "lens/2-4"}
    mean = torch.stack(list(lens.last_values.values())).mean()
    assert terms["lens"].item() == pytest.approx(mean.item(), rel=1e-6)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor with a vocabulary axis that any operation returned."""

    def __init__(self, vocabulary, parameters):
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0
        shapes = {tuple(p.shape) for p in parameters}
        self.weights = shapes | {shape[::-1] for shape in shapes}  # and their transposes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if not isinstance(value, torch.Tensor) or tuple(value.shape) in self.weights:
                continue
            if value.dim() and value.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, value.numel() // self.vocabulary)
        return out


def test_no_tensor_of_positions_times_vocabulary_exists_in_a_step(recipe):
    recipe["train"]["criterion"]["key"] = "distillens.weighted_sum"
    recipe["train"]["criterion"]["kwargs"]["chunk_rows"] = 8
    box = build_box(recipe)
    batch, targets = first_batch(box)
    assert len(targets["positions"]) not in (*range(9), 32, 48)  # the widths of the two models
    parameters = [*box.student_model.parameters(), *box.teacher_model.parameters()]
    box.forward_process(batch, targets)  # the first call probes the models, logits and all
    with LargestTensor(61, parameters) as largest:
        loss = box.forward_process(batch, targets)
        loss.backward()
    assert 0 < largest.rows <= 8


def test_a_frozen_teacher_with_dropout_runs_in_eval_mode(recipe):
    del recipe["train"]["pre_epoch_process"]  # torchdistill's own leaves the teacher in train mode
    box = build_box(recipe)
    box.teacher_model.train()
    for module in box.teacher_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    box.pre_epoch_process(epoch=0)
    batch, targets = first_batch(box)
    first, second = (box.forward_process(batch, targets).item() for _ in range(2))
    assert first == second
    assert not box.teacher_model.training
    assert box.student_model.training


def test_a_partial_accumulation_window_is_stepped_at_the_end_of_an_epoch(recipe):
    recipe["train"]["optimizer"]["grad_accum_step"] = 2
    box = build_box(recipe, dataset=Rows(num_rows=12))  # three batches: windows of 2 and 1
    assert len(box.train_data_loader) == 3
    reports = []
    for epoch in range(2):
        box.pre_epoch_process(epoch=epoch)
        for batch, targets in box.train_data_loader:
            loss = box.forward_process(batch, targets)
            kept = loss.item()
            reports.append(box.post_forward_process(loss=loss) is not None)
            assert loss.item() == kept, "the loss must not be divided in place"
    assert reports == [False, True, True] * 2
    assert all(p.grad is None or not p.grad.any() for p in box.student_model.parameters())


def test_an_all_masked_batch_gives_zero_with_a_graph(recipe):
    box = build_box(recipe)
    batch, _ = first_batch(box)
    loss = box.forward_process(batch, torch.full_like(batch["input_ids"], -100))
    assert loss.item() == 0.0
    loss.backward()
    assert all(not p.grad.any() for p in box.student_model.parameters())


def test_a_layer_without_a_hook_names_the_hook_to_add(recipe):
    recipe["train"]["student"]["forward_hook"]["output"] = ["transformer.h.0"]
    box = build_box(recipe)
    batch, targets = first_batch(box)
    with pytest.raises(DistillensError, match=r"forward_hook: \{output: \[transformer\.h\.1\]\}"):
        box.forward_process(batch, targets)


def test_another_forward_proc_is_refused_by_name(recipe):
    recipe["train"]["student"]["forward_proc"] = "forward_batch_only_as_kwargs"
    box = build_box(recipe)
    batch, targets = first_batch(box)
    with pytest.raises(DistillensError, match=r"train\.student\.forward_proc.*distillens\.forward"):
        box.forward_process(batch, targets)


def test_module_paths_name_layers_as_numbers_do(recipe):
    losses = []
    for layers in (
        {"student": [1, 2], "teacher": [2, 4]},
        {
            "student": ["transformer.h.0", "transformer.h.1"],
            "teacher": ["transformer.h.1", "transformer.h.3"],
        },
        {"auto": 1},  # the middle of each: 1-2
    ):
        sub_terms(recipe)["lens"]["criterion"]["kwargs"]["layers"] = layers
        box = build_box(recipe)
        losses.append(box.forward_process(*first_batch(box)).item())
    assert losses[0] == losses[1]
    assert losses[2] != losses[0]


def test_a_padded_vocabulary_is_cut_to_the_common_ids(recipe):
    del sub_terms(recipe)["ce"], sub_terms(recipe)["lens"]
    box = build_box(recipe, teacher_vocabulary=67)
    batch, targets = first_batch(box)
    loss = box.forward_process(batch, targets)
    mask = targets["labels"][:, 1:] != -100
    with torch.no_grad():
        teacher_logits = box.teacher_model(**batch).logits[:, :-1][mask][:, :61]
        log_p = log_softmax64(teacher_logits)
        log_q = log_softmax64(box.student_model(**batch).logits[:, :-1][mask])
    expected = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
