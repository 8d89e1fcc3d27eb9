"""LoRA and adapters: what is merged, saved and loaded is the model that was trained."""

import json

import pytest
import torch
from small_models import small_model
from tiny_run import ASSETS
from transformers import AutoModelForCausalLM

from distillens_plugin.models.loading import load_student, load_teacher
from distillens_plugin.models.merging import is_tied, merged
from distillens_plugin.models.tokenizers import load_tokenizer
from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from distillens_plugin.storage.model_folder import save_model
from eval_harness.errors import DistillensError

peft = pytest.importorskip("peft", reason="needs the peft extra")
IDS = torch.arange(3, 15).view(2, 6)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(ASSETS / "tokenizer"))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def shake(model):
    """Moves everything that is trained, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make_base(folder, kind="llama", **more):
    small_model(kind, **{"layers": 2, **more}).save_pretrained(folder)
    return folder


def train_adapter(base, folder, **lora):
    """An adapter on a saved base; what base and adapter say together."""
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = shake(peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **lora)))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return logits(adapted)


TRAINED = [
    ("llama", True, ["q_proj"]),
    ("llama", True, ["q_proj", "lm_head"]),
    ("llama", True, ["embed_tokens"]),
    ("llama", True, ["embed_tokens", "lm_head"]),
    ("llama", True, r"(.*\.)?(q_proj|lm_head)"),
    ("llama", True, "all-linear"),
    ("llama", False, ["q_proj", "lm_head"]),
    ("gpt2", True, ["c_attn", "lm_head"]),
    ("gpt2", True, ["wte"]),
    ("gemma2", True, ["q_proj", "lm_head"]),
    ("opt", True, ["lm_head"]),
]


@pytest.mark.parametrize(("kind", "tied", "targets"), TRAINED, ids=str)
def test_a_saved_student_with_lora_is_the_one_that_was_trained(
    tmp_path, tokenizer, kind, tied, targets
):
    base = make_base(tmp_path / "base", kind, tied=tied)
    spec = StudentSpec(
        name_or_path=str(base), lora={"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": targets}
    )
    student = shake(load_student(spec, tokenizer, teacher=None))
    expected = logits(student)
    save_model(tmp_path / "saved", student, tokenizer, "card")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert (logits(saved) - expected).abs().max() < 1e-4
    assert (logits(student) - expected).abs().max() == 0  # which goes on training
    base_and_adapter = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "saved" / "adapter"
    )
    assert (logits(base_and_adapter) - expected).abs().max() < 1e-4
    adapts_one = "lm_head" in targets or "embed_tokens" in targets or "wte" in targets
    config = json.loads((tmp_path / "saved" / "config.json").read_text("utf-8"))
    if tied and (adapts_one or "lm_head" in str(targets)):
        assert config["tie_word_embeddings"] is False
        assert "one weight" in (tmp_path / "saved" / "README.md").read_text("utf-8")
    else:
        assert is_tied(saved) == tied


LOADED = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["embed_tokens", "q_proj"]},
    {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    {"target_modules": ["embed_tokens"], "use_dora": True},
    {"target_modules": ["q_proj", "lm_head"], "use_rslora": True},
    {"target_modules": ["q_proj"], "bias": "lora_only"},
    {"target_modules": ["q_proj", "lm_head"], "bias": "all"},
    {"target_modules": ["q_proj"], "lora_bias": True},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
]


@pytest.mark.parametrize("lora", LOADED, ids=str)
def test_a_model_with_an_adapter_is_base_and_adapter_and_saves_as_such(tmp_path, tokenizer, lora):
    base = make_base(tmp_path / "base", tied=True, attention_bias=True)
    expected = train_adapter(base, tmp_path / "adapter", **lora)
    names = {"name_or_path": str(base), "adapter": str(tmp_path / "adapter")}
    teacher = load_teacher(TeacherSpec(**names))
    assert (logits(teacher) - expected).abs().max() < 1e-4
    assert not any(p.requires_grad for p in teacher.parameters())
    student = load_student(StudentSpec(**names), tokenizer, teacher=None)
    assert all(p.requires_grad for p in student.parameters())
    save_model(tmp_path / "saved", student, tokenizer, "card")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert (logits(saved) - expected).abs().max() < 1e-4


def test_merging_leaves_types_and_frozen_weights_as_they_were(tmp_path, tokenizer):
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    train_adapter(base, tmp_path / "adapter", modules_to_save=["norm"], target_modules=["q_proj"])
    spec = {"name_or_path": str(base), "adapter": str(tmp_path / "adapter"), "dtype": "bfloat16"}
    student = load_student(StudentSpec(**spec), tokenizer, teacher=None)
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "start",
    [
        {"adapter": "adapter"},
        {"init": {"config": {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}}},
        {"init": {"from_teacher_layers": [0]}},
    ],
    ids=str,
)
def test_an_adapter_whose_base_is_in_no_folder_is_not_kept_by_itself(tmp_path, tokenizer, start):
    base = make_base(tmp_path / "base", vocab=len(tokenizer))
    train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    teacher = load_teacher(TeacherSpec(name_or_path=str(base)))
    given = {"name_or_path": str(base)} if "adapter" in start else {}
    given |= {key: str(tmp_path / v) if key == "adapter" else v for key, v in start.items()}
    student = load_student(
        StudentSpec(**given, lora={"target_modules": "all-linear"}), tokenizer, teacher=teacher
    )
    save_model(tmp_path / "saved", student, tokenizer, "card")
    assert not (tmp_path / "saved" / "adapter").exists()
    assert "not kept by itself" in (tmp_path / "saved" / "README.md").read_text("utf-8")


def test_a_kept_adapter_names_base_and_revision(tmp_path, tokenizer):
    base = make_base(tmp_path / "base")
    spec = StudentSpec(name_or_path=str(base), lora={"target_modules": ["q_proj"]})
    student = load_student(spec, tokenizer, teacher=None)
    save_model(tmp_path / "saved", student, tokenizer, "card")
    config = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == str(base)
    assert str(base) in (tmp_path / "saved" / "README.md").read_text("utf-8")


def test_an_adapter_of_another_model_is_refused(tmp_path):
    base = make_base(tmp_path / "base")
    small_model("llama", layers=3, vocab=64).save_pretrained(tmp_path / "deeper")
    train_adapter(tmp_path / "deeper", tmp_path / "adapter", target_modules=["q_proj"])
    for model in ("base", "deeper"):
        adapter = tmp_path / "adapter"
        if model == "deeper":
            adapter = tmp_path / "shallow"
            train_adapter(base, adapter, target_modules=["q_proj"])
        spec = TeacherSpec(name_or_path=str(tmp_path / model), adapter=str(adapter))
        with pytest.raises(DistillensError, match=r"adapter's weights.*of another model"):
            load_teacher(spec)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "NONSENSE"}'),
        lambda folder: (folder / "adapter_config.json").unlink(),
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\0" * 20),
    ],
)
def test_a_broken_adapter_is_refused_in_one_line(tmp_path, break_it):
    base = make_base(tmp_path / "base")
    train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    break_it(tmp_path / "adapter")
    spec = TeacherSpec(name_or_path=str(base), adapter=str(tmp_path / "adapter"))
    with pytest.raises(DistillensError) as caught:
        load_teacher(spec)
    assert "models.teacher_model.adapter" in str(caught.value)
    assert str(tmp_path / "adapter") in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_prompt_tuning_cannot_be_merged(tmp_path):
    base = make_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    spec = TeacherSpec(
        name_or_path=str(base), adapter=str(tmp_path / "adapter"), trust_remote_code=True
    )
    with pytest.raises(DistillensError, match=r"PROMPT_TUNING is not part of the weights"):
        load_teacher(spec)


@pytest.mark.parametrize("targets", [["nonsense"], "(", ["layers"], None])
def test_target_modules_that_cannot_be_adapted_are_refused(tmp_path, tokenizer, targets):
    kind = "olmo2" if targets is None else "llama"
    base = make_base(tmp_path / "base", kind)
    spec = StudentSpec(name_or_path=str(base), lora={"target_modules": targets})
    with pytest.raises(
        DistillensError, match=r"models\.student_model\.lora\.target_modules: found"
    ):
        load_student(spec, tokenizer, teacher=None)


def test_a_model_that_merging_would_change_is_refused(tmp_path, tokenizer, monkeypatch):
    base = make_base(tmp_path / "base")
    spec = StudentSpec(name_or_path=str(base), lora={"target_modules": ["q_proj"]})
    student = shake(load_student(spec, tokenizer, teacher=None))
    layer = type(student.base_model.model.model.layers[0].self_attn.q_proj)
    merge = layer.merge
    monkeypatch.setattr(layer, "merge", lambda self, **more: (merge(self), merge(self))[0])
    monkeypatch.setattr(layer, "merged", property(lambda self: False), raising=False)
    monkeypatch.setattr(layer, "merge", lambda self, **more: self.base_layer.weight.data.mul_(3.0))
    with pytest.raises(DistillensError, match="merging the adapter changes the model"):
        merged(student)
