"""AttachedLens and files made on one teacher: held against the one that it is given."""

import pytest
import torch
from small_models import small_model
from transformers import AutoModelForCausalLM

from distillens_plugin import AttachedLens
from distillens_plugin.lens.teacher_files import teacher_notes
from distillens_plugin.lens.translators import save_translators
from distillens_plugin.losses.fisher_metric import save_fisher
from distillens_plugin.losses.hidden import HiddenMSE
from eval_harness.errors import DistillensError

peft = pytest.importorskip("peft", reason="needs the peft extra")
LAYERS = {"student": [1], "teacher": [2]}
OTHER = r"these translators were trained on other weights than those in .*; train them again"


def saved(folder, seed):
    small_model("gpt2", layers=3, width=16, seed=seed).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def teachers(tmp_path):
    """Two of the same sizes."""
    return [saved(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]


def translators(folder, notes, width=16):
    file = str(folder / "translators.safetensors")
    maps = {2: (torch.zeros(width, width), torch.zeros(width))}
    save_translators(file, maps, num_layers=3, notes=notes)
    return file


def attach(teacher, file):
    student = small_model("gpt2", layers=2, width=16)
    AttachedLens(student, teacher, LAYERS, norm="final", teacher_translators=file).remove()


def test_translators_of_another_teacher_are_refused(tmp_path, teachers):
    file = translators(tmp_path, teacher_notes(teachers[0], None))
    attach(AutoModelForCausalLM.from_pretrained(teachers[0]), file)
    with pytest.raises(DistillensError, match=rf"teacher_translators: {OTHER} .*, or load the te"):
        attach(AutoModelForCausalLM.from_pretrained(teachers[1]), file)
    saved(tmp_path / "one", 5)
    with pytest.raises(DistillensError, match=OTHER):
        attach(AutoModelForCausalLM.from_pretrained(teachers[0]), file)


def test_names_on_the_hub_are_compared_and_a_model_without_one_is_not(tmp_path):
    file = translators(tmp_path, teacher_notes("org/base", None))
    teacher = small_model("gpt2", layers=3, width=16)
    attach(teacher, file)
    teacher.name_or_path = "org/base"
    attach(teacher, file)
    teacher.name_or_path = "org/chat"
    with pytest.raises(DistillensError, match="on org/base, but the teacher is org/chat; train"):
        attach(teacher, file)


def test_of_an_adapters_file_the_base_is_compared(tmp_path, teachers):
    def adapted(folder):
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
        return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)

    adapted(teachers[0]).save_pretrained(tmp_path / "adapter")
    file = translators(tmp_path, teacher_notes(teachers[0], str(tmp_path / "adapter")))
    attach(adapted(teachers[0]), file)
    attach(adapted(teachers[0]).merge_and_unload(), file)
    for teacher in (adapted(teachers[1]), adapted(teachers[1]).merge_and_unload()):
        with pytest.raises(DistillensError, match=OTHER):
            attach(teacher, file)
    # A file of a plain model may be that of the merged one.
    attach(adapted(teachers[1]), translators(tmp_path, teacher_notes(teachers[0], None)))


def test_fisher_matrices_of_another_teacher_are_refused(tmp_path, teachers):
    file = str(tmp_path / "fisher.safetensors")
    notes = teacher_notes(teachers[0], None)
    save_fisher(file, {2: torch.eye(16)}, num_layers=3, notes=notes)
    student = small_model("gpt2", layers=2, width=16)
    for folder, fits in zip(teachers, (True, False), strict=True):
        teacher = AutoModelForCausalLM.from_pretrained(folder)
        term = HiddenMSE(LAYERS, metric="fisher", metric_file=file)
        if fits:
            AttachedLens(student, teacher, terms={"hidden": (term, 1.0)}).remove()
            continue
        with pytest.raises(DistillensError, match=r"metric_file: these Fisher matrices were made"):
            AttachedLens(student, teacher, terms={"hidden": (term, 1.0)})


def test_other_sizes_and_a_missing_file_are_refused_before_a_model_runs(tmp_path):
    teacher = small_model("gpt2", layers=3, width=16)
    with pytest.raises(DistillensError, match=r"for 3 layers of width 8, but the teacher has 3 of"):
        attach(teacher, translators(tmp_path, {}, width=8))
    with pytest.raises(DistillensError, match="teacher_translators: cannot read translators from"):
        attach(teacher, str(tmp_path / "none"))
    # A lens that was refused leaves no hooks behind.
    assert not any(module._forward_hooks for module in teacher.modules())
