"""Cases of training in pieces: small models in float64, and the gradients of two optimiser steps.

A case is a torchdistill box around a student and a teacher. Its rows are dealt to four slots, and
slots to processes, so that any number of processes sees the same rows in the same windows: the
gradients must be those of one process. The first window is full, the second a partial one. Rows
differ in length; in the second window, all rows of slots 1 and 3 are prompts without a response.
"""

import contextlib
import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from boxes import Rows
from fsdp_on_cpu import is_sharded
from small_models import small_model
from torch.distributed.tensor import DTensor
from torchdistill.core.distillation import DistillationBox

from distillens_plugin.data.collate import collate
from distillens_plugin.experiment.placement import Placement
from distillens_plugin.experiment.readers import anatomy_on_all
from distillens_plugin.integrations.torchdistill.processes import optimizers_of
from distillens_plugin.integrations.torchdistill.registry import register
from distillens_plugin.lens.translators import save_translators
from distillens_plugin.losses.trained_parameters import adopt, loss_parameters
from distillens_plugin.teacher_cache.forward import CachingForward, state_name
from distillens_plugin.teacher_cache.store import Store
from distillens_plugin.training.trainer import Trainer
from distillens_plugin.training.window import windows

VOCABULARY = 61  # odd: no number of processes divides it
SLOTS = 4
PAIRS = {"student": [1, 2], "teacher": [2, 4]}


@dataclass
class Case:
    """One way of training.

    Attributes:
        lora: target modules of an adapter, or None.
        extra: further terms by name.
        cached: slots whose rows the teacher cache holds before; None: no cache.
        one_rank_reads: only the first process has weights, as with cpu_ram_efficient_loading.
        clip: the largest norm of a gradient.
        digits: of the gradients; float32 where the norm of float32 projections scales all of them.
    """

    name: str
    family: str = "llama"
    tied: bool = True
    lora: list[str] | None = None
    checkpointing: bool = False
    extra: dict = field(default_factory=dict)
    cached: tuple[int, ...] | None = None
    teacher_sharded: bool = True
    reshard_teacher: bool = False
    one_rank_reads: bool = False
    clip: float | None = 0.5
    digits: torch.dtype = torch.float64


def _projections():
    return {"hidden": {"criterion": _criterion("distillens.hidden_mse", layers=PAIRS), "weight": 1}}


def _tuned_lens():
    """Translators of the teacher's layer 2, in a file that is the same in every process."""
    path = Path(tempfile.mkdtemp()) / "translators.safetensors"
    generator = torch.Generator().manual_seed(5)
    maps = {
        2: (torch.randn(48, 48, generator=generator) / 48, torch.randn(48, generator=generator))
    }
    save_translators(path, maps, num_layers=4, notes={})
    criterion = _criterion(
        "DistillLensLoss", layers=PAIRS, norm="final", teacher_translators=str(path)
    )
    return {"tuned": {"criterion": criterion, "weight": 1.0}}


CASES = {
    case.name: case
    for case in (
        Case("llama tied"),
        Case("llama untied", tied=False),
        Case("gpt2 tied", family="gpt2"),
        Case("gpt2 untied", family="gpt2", tied=False),
        Case("lora", lora=["q_proj", "v_proj"]),
        Case("lora and head", tied=False, lora=["q_proj", "lm_head"]),
        Case("gradient checkpointing", checkpointing=True),
        Case("projections", extra={"make": _projections}, clip=None),
        Case("projections clipped", extra={"make": _projections}, digits=torch.float32),
        Case("tuned lens", extra={"make": _tuned_lens}),
        Case("teacher cache partly filled", cached=(0, 2)),
        Case("weights on one process", one_rank_reads=True),
        Case("weights on one process untied", family="gpt2", tied=False, one_rank_reads=True),
        Case("teacher replicated", teacher_sharded=False),
        Case("teacher's head put away", tied=False, reshard_teacher=True),
    )
}
ON_FOUR = ("llama tied", "gpt2 untied")


def gradients_of(case, accelerator, *, sharded):
    """By name, whole: `0/...` in the first step, `1/...` in the second. Every process calls it.

    Args:
        sharded: both models in pieces, else plain models.
    """
    teacher = small_model(
        case.family,
        layers=4,
        width=48,
        vocab=VOCABULARY,
        tied=case.tied,
        seed=1,
        dtype=torch.float64,
    ).requires_grad_(False)
    student = _student(case)
    one_rank_reads = sharded and case.one_rank_reads
    if sharded:
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = one_rank_reads
    for model in (teacher, student):
        if one_rank_reads and not accelerator.is_main_process:
            for parameter in model.parameters():
                parameter.data.zero_()
        anatomy_on_all(model, accelerator, one_rank_reads=one_rank_reads)
    placement = Placement(student_sharded=sharded, teacher_sharded=sharded and case.teacher_sharded)
    register()
    with placement.in_box(teacher, student, accelerator):
        box = DistillationBox(
            teacher,
            student,
            {"train": Rows()},
            _config(case, student, teacher),
            accelerator.device,
            None,
            accelerator.num_processes > 1,
            1.0,
            accelerator,
        )
    box.pre_epoch_process(epoch=0)
    assert is_sharded(box.student_model) is sharded
    assert is_sharded(box.teacher_model) is (sharded and case.teacher_sharded)
    adopt(box)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if case.cached is not None:
            _fill_cache(case, box, Path(folder))
        trainer = Trainer(box, accelerator, reshard_teacher=case.reshard_teacher)
        for step, batches in enumerate(_windows(accelerator)):
            names = {**dict(box.student_model.named_parameters()), **loss_parameters(box.criterion)}
            with _recorded(box, names, found, step):
                (window,) = windows(batches, len(batches), accelerator)
                result = trainer.step(window)
            # Beside float32 projections the norm has the digits of float32.
            found[f"{step}/norm"] = torch.tensor(result.grad_norm)
        if case.reshard_teacher and sharded:
            head = box.teacher_model.get_output_embeddings().weight
            assert isinstance(head, DTensor), "the teacher's head was not put away"
    return found


def _student(case):
    student = small_model(
        case.family,
        layers=3,
        width=32,
        vocab=VOCABULARY,
        tied=case.tied,
        seed=2,
        dtype=torch.float64,
    )
    if case.checkpointing:
        student.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    if case.lora is not None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(3)
        config = LoraConfig(
            r=2, target_modules=case.lora, init_lora_weights=False, task_type="CAUSAL_LM"
        )
        student = get_peft_model(student, config).double()
    return student.train()


def _criterion(key, **kwargs):
    return {"key": key, "kwargs": kwargs}


def _config(case, student, teacher):
    terms = {
        "ce": {"criterion": _criterion("distillens.cross_entropy"), "weight": 0.5},
        "kd": {"criterion": _criterion("distillens.logits_kd", divergence="fkl"), "weight": 1.0},
    }
    for norm in ("identity", "final"):
        criterion = _criterion("DistillLensLoss", layers=PAIRS, norm=norm)
        terms[norm] = {"criterion": criterion, "weight": 1.0}
    if case.extra:
        terms |= case.extra["make"]()
    return {
        "num_epochs": 1,
        "train_data_loader": {"key": "DataLoader", "collate_fn": "distillens.collate"},
        "val_data_loader": {},
        "teacher": _hooks(teacher, PAIRS["teacher"]) | {"requires_grad": False},
        "student": _hooks(student, PAIRS["student"]),
        # A step changes nothing, so that both windows see the same weights.
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": 0.0, "weight_decay": 0.0},
            "max_grad_norm": case.clip,
        },
        "pre_epoch_process": "distillens.pre_epoch",
        "criterion": {
            "key": "distillens.weighted_sum",
            "func2extract_model_loss": "distillens.no_model_loss",
            "kwargs": {"sub_terms": terms},
        },
    }


def _hooks(model, layers):
    from distillens_plugin.lens.known_lenses import lens_of

    blocks = lens_of(model).blocks_path
    return {
        "forward_proc": "distillens.forward",
        "forward_hook": {"output": [f"{blocks}.{layer - 1}" for layer in layers]},
    }


def _windows(accelerator):
    """The batches of this process in each window."""
    rows = Rows(num_rows=24, seed=4).examples
    for step, (first, batches_per_slot) in enumerate(((0, 2), (16, 1))):
        mine = []
        for slot in range(accelerator.process_index, SLOTS, accelerator.num_processes):
            for number in range(batches_per_slot):
                start = first + (slot * batches_per_slot + number) * 2
                examples = copy.deepcopy(rows[start : start + 2])
                if step == 1 and slot % 2:
                    for example in examples:
                        example["labels"] = [-100] * len(example["labels"])
                mine.append(collate(examples))
        yield mine


def _fill_cache(case, box, folder):
    """A cache that holds the rows of some slots; they are computed by the teacher itself."""
    from distillens_plugin.lens.known_lenses import lens_of

    lens = lens_of(box.teacher_model)
    states = [state_name(layer, lens.blocks_path) for layer in PAIRS["teacher"]]

    class One:
        process_index, num_processes = 0, 1

    store = Store(folder, dtype="bfloat16")
    forward = CachingForward(box.teacher_forward_proc, store, states, box.teacher_io_dict)
    every = [collate_of for batches in _windows(One) for collate_of in batches]
    for index, (batch, targets) in enumerate(every):
        slot = index // 2 if index < 8 else index - 8
        if slot in case.cached:
            with torch.no_grad():
                forward(box.teacher_model, batch, targets)
    box.teacher_forward_proc = forward


@contextlib.contextmanager
def _recorded(box, names, found, step):
    """Keeps the gradients that the optimisers see; every process gathers them in the same order."""

    def record(optimizer, *arguments):
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in names.items():
            if id(parameter) in own and parameter.grad is not None:
                gradient = parameter.grad
                whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
                found[f"{step}/{name}"] = whole.clone()

    handles = []
    for optimizer in optimizers_of(box):
        inner = getattr(optimizer, "optimizer", optimizer)
        handles.append(inner.register_step_pre_hook(record))
    yield
    for handle in handles:
        handle.remove()


def worst_difference(case, found, expected):
    """The largest |difference| over the largest |entry| of each gradient, and its name.

    In units of the rounding of the gradient's own type: projections compute in float32.
    """
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    errors = {}
    for name, value in expected.items():
        scale = value.abs().max().clamp_min(1e-14)
        error = ((found[name] - value).abs().max() / scale).item()
        rounding = max(torch.finfo(kind).eps for kind in (value.dtype, case.digits))
        errors[name] = error / rounding
    name = max(errors, key=errors.__getitem__)
    return errors[name], name
