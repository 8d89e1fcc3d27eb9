"""Models of AutoModelForImageTextToText: the lens reads their text part, images included."""

from typing import Any

import pytest
import torch
from pair import batch, gradients
from transformers import AutoConfig, AutoModelForImageTextToText

from distillens_plugin import AttachedLens
from eval_harness.errors import DistillensError

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 128,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "depth": 2,
    "num_heads": 4,
    "embed_dim": 32,
    "out_hidden_size": 32,
}
ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llava": ({"model_type": "llama"}, {"model_type": "clip_vision_model"}),
    "gemma3": ({"model_type": "gemma3_text"}, {"model_type": "siglip_vision_model"}),
    "qwen2_5_vl": ({"model_type": "qwen2_5_vl_text", "rope_parameters": ROPE}, {}),
    "smolvlm": ({"model_type": "llama"}, {}),
}
IMAGE = 63  # LLaVA's placeholder of an image's patch


def model(kind, layers=3, seed=0):
    text, vision = KINDS[kind]
    config = AutoConfig.for_model(
        kind,
        text_config={**TEXT, **text, "num_hidden_layers": layers},
        vision_config={**VISION, **vision},
        image_token_id=IMAGE,
    )
    torch.manual_seed(seed)
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_text(kind):
    student, teacher = model(kind), model(kind, layers=5, seed=1)
    ids, labels = batch()
    own = student(input_ids=ids, labels=labels).loss
    lens = AttachedLens(student, teacher, {"auto": 2}, lens_weight=1e-6, cross_entropy=1.0)
    student(input_ids=ids)
    with torch.no_grad():
        teacher(input_ids=ids)
    loss = lens.loss(labels)
    torch.testing.assert_close(lens.values["cross_entropy"], own.detach(), rtol=1e-5, atol=1e-5)
    assert set(lens.values) >= {"lens/1-2", "lens/2-3"}
    assert lens.values["lens"] > 0
    loss.backward()
    assert any("layers.0" in name for name in gradients(student))


def test_an_image():
    student, teacher = model("llava"), model("llava", layers=5, seed=1)
    ids, labels = batch()
    patches = (28 // 14) ** 2
    ids[:, 1 : 1 + patches], labels[:, : 1 + patches] = IMAGE, -100
    pictures = torch.randn(len(ids), 3, 28, 28)
    own = student(input_ids=ids, pixel_values=pictures, labels=labels).loss
    lens = AttachedLens(student, teacher, {"auto": 2}, cross_entropy=1.0)
    with lens.headless():
        student(input_ids=ids, pixel_values=pictures)
        with torch.no_grad():
            teacher(input_ids=ids, pixel_values=pictures)
        lens.loss(labels).backward()
    torch.testing.assert_close(lens.values["cross_entropy"], own.detach(), rtol=1e-5, atol=1e-5)
    assert any("vision_tower" in name for name in gradients(student))


def test_one_that_reads_ahead_is_refused():
    """PaliGemma sees its whole prompt at once."""
    text = {**TEXT, "model_type": "gemma"}
    vision = {**VISION, "model_type": "siglip_vision_model"}
    config = AutoConfig.for_model("paligemma", text_config=text, vision_config=vision)
    student = AutoModelForImageTextToText.from_config(config)
    with pytest.raises(DistillensError, match=r"PaliGemma.* depend on later tokens"):
        AttachedLens(student, None, cross_entropy=1.0)
