"""A cache beside a teacher with an adapter."""

from cached_run import Run, agree, cached_recipe
from peft import LoraConfig, get_peft_model
from run_process import change
from transformers import GPT2LMHeadModel

from distillens_plugin.cli import main


def test_beside_an_adapter_the_student_is_the_same_whatever_is_loaded(tmp_path):
    path = cached_recipe(tmp_path)
    adapter = LoraConfig(r=4, target_modules=["c_attn", "lm_head"], init_lora_weights=False)
    teacher = GPT2LMHeadModel.from_pretrained(tmp_path / "teacher")
    get_peft_model(teacher, adapter).save_pretrained(tmp_path / "adapter")
    change(path, "models.teacher_model.adapter", str(tmp_path / "adapter"))
    assert main(["cache", str(path)]) == 0
    steps = []
    for states_only in (False, True):
        reading = Run(path, states_only=states_only)
        steps.append(reading.epoch(0)[0])
        reading.close()
    agree(*steps, rel=1e-6)
