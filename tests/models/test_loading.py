"""Students: cut from a teacher, random from a config, with adapters; and what is refused."""

import pytest
import torch
from small_models import small_model

from distillens_plugin.lens.discovery import find_anatomy
from distillens_plugin.models.loading import (
    cut_from_teacher,
    load_pretrained,
    load_student,
    load_teacher,
)
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from eval_harness.errors import DistillensError

REPO_TOKENIZER = "recipes/quickstart/tokenizer"


@pytest.fixture(scope="module")
def tokenizer(repo):
    return load_tokenizer(str(repo / REPO_TOKENIZER))


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "qwen3", "opt"])
def test_a_student_with_all_blocks_of_its_teacher_is_the_teacher(kind):
    teacher = small_model(kind, layers=4, width=32, vocab=64)
    ids = torch.arange(12).view(2, 6)
    student = cut_from_teacher(teacher, [0, 1, 2, 3], where="student_model")
    assert torch.equal(logits(student, ids), logits(teacher, ids))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "qwen3", "opt"])
def test_a_shallower_student_holds_the_kept_blocks(kind):
    teacher = small_model(kind, layers=4, width=32, vocab=64)
    student = cut_from_teacher(teacher, [1, 2], where="student_model")
    assert student.config.num_hidden_layers == 2
    types = getattr(teacher.config, "layer_types", None)
    if types is not None:
        assert student.config.layer_types == types[1:3]
    blocks = find_anatomy(teacher).blocks
    for new, old in [(0, 1), (1, 2)]:
        kept = student.get_submodule(f"{blocks}.{new}").state_dict()
        origin = teacher.get_submodule(f"{blocks}.{old}").state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in origin.items())
    ids = torch.arange(12).view(2, 6)
    assert logits(student, ids).isfinite().all()
    assert not torch.allclose(logits(student, ids), logits(teacher, ids))


def test_a_block_that_the_teacher_has_not_is_named():
    teacher = small_model("gpt2", layers=4, width=32, vocab=64)
    with pytest.raises(DistillensError, match=r"from_teacher_layers\[1\] = 4.*blocks 0 to 3"):
        cut_from_teacher(teacher, [1, 4], where="models.student_model")


def test_weights_that_leave_parameters_random_are_refused(tmp_path):
    small_model("gpt2", layers=2, width=32, vocab=64).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(
        config.replace('"n_layer": 2', '"n_layer": 3'), encoding="utf-8"
    )
    with pytest.raises(
        DistillensError, match=r"\d+ parameters of .* are missing.*transformer\.h\.2"
    ):
        load_pretrained(TeacherSpec(name_or_path=str(tmp_path)), where="models.teacher_model")


def test_a_teacher_is_frozen_and_in_eval_mode(tmp_path):
    small_model("gpt2", layers=2, width=32, vocab=64).save_pretrained(tmp_path)
    teacher = load_teacher(TeacherSpec(name_or_path=str(tmp_path), dtype="bfloat16"))
    assert not teacher.training
    assert all(not p.requires_grad and p.dtype == torch.bfloat16 for p in teacher.parameters())


def test_a_teacher_wears_its_adapter(tmp_path, tokenizer):
    peft = pytest.importorskip("peft", reason="needs the peft extra")
    base = small_model("gpt2", layers=2, width=32, vocab=64)
    base.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.arange(12).view(2, 6)
    expected = logits(adapted, ids)
    adapted.save_pretrained(tmp_path / "adapter")
    spec = TeacherSpec(name_or_path=str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    assert torch.allclose(logits(load_teacher(spec), ids), expected, atol=1e-5)


def test_a_random_student_takes_vocabulary_and_special_tokens_from_the_tokenizer(tokenizer):
    spec = StudentSpec(
        init={"config": {"model_type": "gpt2", "n_layer": 2, "n_embd": 24, "n_head": 2}}
    )
    torch.manual_seed(3)
    student = load_student(spec, tokenizer, teacher=None)
    assert student.config.vocab_size == len(tokenizer)
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    torch.manual_seed(3)
    again = load_student(spec, tokenizer, teacher=None)
    assert torch.equal(student.lm_head.weight, again.lm_head.weight)
