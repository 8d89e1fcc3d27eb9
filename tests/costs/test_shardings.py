"""Memory of a device: what each sharding shares out, and the change that makes a run fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe_text import DISTILLATION, FINE_TUNING, LENS, write_recipe
from torch.utils.flop_counter import FlopCounterMode

from distillens_plugin.costs.flops import row_flops
from distillens_plugin.costs.plan import Machine, plan_recipe, state_bytes
from distillens_plugin.costs.report import plan_json, plan_lines
from distillens_plugin.costs.shardings import memory
from distillens_plugin.costs.walk import WalkRows
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache.codec import encode
from eval_harness.errors import DistillensError

CONFIGS = Path(__file__).parents[1] / "configs"
STUDENT = "models.student_model"
LLAMA = [
    f"models.teacher_model.name_or_path={CONFIGS / 'Llama-2-7b-hf'}",
    "models.teacher_model.dtype=bfloat16",
    f"{STUDENT}.name_or_path={CONFIGS / 'TinyLlama_v1.1'}",
]
SMALL = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "vocab_size": 512,
}
P, TEACHER = 1_100_048_384, 6_738_415_616


def planned(tmp_path, *overrides, text=DISTILLATION, **machine):
    settings = {"devices": 8, "nodes": 1, "memory": 80e9, "reserve": 2e9, "device": "cuda"}
    settings |= {"tflops": None, "mfu": 0.4} | machine
    given = LLAMA if text is DISTILLATION else []
    recipe = load_recipe(write_recipe(tmp_path, text), [*given, *overrides])
    return plan_recipe(recipe, Machine(**settings))


def choice(plan, sharding, teacher):
    (found,) = [c for c in plan.choices if (c.sharding, c.teacher) == (sharding, teacher)]
    return found


def test_each_sharding_shares_out_what_it_names(tmp_path):
    plan = planned(tmp_path)
    one = choice(plan, "one device", "replicated").memory
    assert one.weights == 4 * P
    assert one.gradients == 4 * P
    assert one.optimiser == 8 * P
    ddp = choice(plan, "ddp", "replicated").memory
    assert ddp.gradients == 8 * P
    assert ddp.optimiser == one.optimiser
    zero2 = choice(plan, "zero2", "replicated").memory
    # DeepSpeed keeps master weights beside the two moments.
    assert (zero2.weights, zero2.optimiser) == (4 * P, 12 * P / 8)
    fsdp2 = choice(plan, "fsdp2", "sharded").memory
    tail = P - 22 * (P - 2 * 32000 * 2048 - 2048) // 22
    block = (P - tail) // 22
    whole = 4 * (tail + 2 * block)
    assert fsdp2.weights == pytest.approx(4 * P / 8 + whole)
    assert fsdp2.optimiser == one.optimiser / 8
    gathered = 2 * (2 * 32000 * 4096 + 4096) + 4 * 202_383_360
    shared = choice(plan, "fsdp2", "replicated").memory.teacher - fsdp2.teacher
    assert shared == pytest.approx(2 * TEACHER * 7 / 8 - gathered, rel=0.01)
    only = choice(plan, "fsdp2", "states only").memory
    assert only.teacher < 2 * 32000 * 4096 + 0.2e9
    assert max(one.peak, ddp.peak) == ddp.peak > zero2.peak > fsdp2.peak > only.peak
    assert one.peak < sum(
        (one.weights, one.gradients, one.optimiser, one.activations, one.logits, one.teacher)
    )


def test_hsdp_shares_within_a_node(tmp_path):
    plan = planned(tmp_path, devices=4, nodes=2)
    over_all, within = (choice(plan, sharding, "sharded").memory for sharding in ("fsdp2", "hsdp"))
    assert within.optimiser == 2 * over_all.optimiser
    assert not [c for c in planned(tmp_path, devices=4).choices if c.sharding == "hsdp"]
    assert {c.sharding for c in planned(tmp_path, devices=1).choices} == {"one device"}


def test_without_a_teacher_there_is_none_to_place(tmp_path):
    model = [f"models.model.name_or_path={CONFIGS / 'gpt2'}"]
    plan = planned(tmp_path, *model, text=FINE_TUNING)
    assert {c.teacher for c in plan.choices} == {"none"}
    assert (plan.cache, plan.vllm_devices) == (None, None)
    assert plan.run.walk == WalkRows(row_sets=1, with_teacher=0, labels=True)


def test_a_lens_by_the_teachers_readout_is_its_own_walk(tmp_path):
    layers = f"{LENS}.layers={{auto: 4}}"
    own = planned(tmp_path, layers).run.walk
    assert own.by_teacher == 0
    mapped = planned(
        tmp_path,
        *(layers, f"{LENS}.readout=teacher", f"{LENS}.positions=0.25"),
        f"{LENS}.weigh_by=teacher_entropy",
    ).run.walk
    final = own.row_sets - 4
    assert mapped == WalkRows(final, own.with_teacher - 3, own.labels, by_teacher=1, entropies=True)


@pytest.mark.parametrize("memory_gb", [12, 16, 20, 24, 30, 36])
def test_a_change_that_is_named_does_fit(tmp_path, memory_gb):
    tried = planned(tmp_path, "train.train_data_loader.kwargs.batch_size=8", memory=memory_gb * 1e9)
    named = 0
    for wrong in (c for c in tried.choices if c.change is not None):
        overrides, machine = ["train.train_data_loader.kwargs.batch_size=8"], {}
        for part in wrong.change.split(" + "):
            words = part.replace(",", "").split()
            if part.endswith("devices"):
                machine["devices"] = int(words[0])
            elif words[0] == "batch_size":
                overrides.append(f"train.train_data_loader.kwargs.batch_size={words[1]}")
                overrides.append(f"train.optimizer.grad_accum_step={words[3]}")
            else:
                overrides.append(
                    {
                        "gradient_checkpointing": f"{STUDENT}.gradient_checkpointing=true",
                        "mixed_precision": "mixed_precision=bf16",
                        "teacher": "models.teacher_model.dtype=bfloat16",
                        "lora": f"{STUDENT}.lora={{dropout: 0, target_modules: all-linear}}",
                    }[words[0]]
                )
        again = planned(tmp_path, *overrides, memory=memory_gb * 1e9, **machine)
        assert choice(again, wrong.sharding, wrong.teacher).fits, wrong.change
        named += 1
    assert named


def test_accumulating_holds_gradients_during_the_forward_pass(tmp_path):
    run = planned(tmp_path, f"{STUDENT}.gradient_checkpointing=true").run
    long = replace(run, shape=replace(run.shape, rows=64), batches=2)
    more = memory(long, "fsdp2", "sharded", 8)
    less = memory(replace(long, batches=1), "fsdp2", "sharded", 8)
    # FSDP2 adds them up whole.
    assert more.peak - less.peak == pytest.approx(4 * P, rel=0.01)


def test_lora_trains_few(tmp_path):
    from peft import LoraConfig, get_peft_model

    from distillens_plugin.lens.config_facts import read_config
    from eval_harness.shared.model_folder.shapes import empty_model

    fields = json.loads((CONFIGS / "TinyLlama_v1.1" / "config.json").read_text(encoding="utf-8"))
    for targets in (None, ["q_proj", "mlp.down_proj"], "all-linear", r".*\.(up|gate)_proj"):
        value = "null" if targets is None else json.dumps(targets)
        plan = planned(tmp_path, f"{STUDENT}.lora={{r: 4, target_modules: {value}}}")
        wanted = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        with torch.device("meta"):
            adapted = get_peft_model(empty_model(read_config(fields)), wanted)
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert plan.run.trained == trained
        assert choice(plan, "one device", "replicated").memory.optimiser == 8 * trained


@pytest.mark.parametrize("width", [3, 8, 576, 2**15 + 1])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_states_take_what_the_cache_stores(width, dtype):
    stored = encode("x", torch.randn(2, width), dtype)
    assert 2 * state_bytes(width, dtype) == sum(part.nbytes for part in stored.values())


def test_lora_on_nothing_is_refused(tmp_path):
    with pytest.raises(DistillensError, match=r"lora.target_modules: found \['query'\].*q_proj"):
        planned(tmp_path, f"{STUDENT}.lora={{target_modules: [query]}}")


def test_lora_outside_the_blocks_is_named(tmp_path):
    targets = f"{STUDENT}.lora={{target_modules: [q_proj, lm_head]}}"
    lines = plan_lines(planned(tmp_path, targets))
    assert "LoRA on lm_head, outside the blocks: not counted either." in lines


def test_layers_out_of_range_are_refused(tmp_path):
    with pytest.raises(DistillensError, match=r"layers.*23"):
        planned(tmp_path, f"{LENS}.layers={{student: [1, 23], teacher: [1, 2]}}")


def row_plan(tmp_path, config):
    """The plan of a student with this config."""
    return planned(
        tmp_path,
        f"{STUDENT}={{init: {{config: {json.dumps(config)}}}}}",
        f"{LENS}.layers={{student: [1, 2], teacher: [2, 4]}}",
        "datasets.train.max_length=64",
        "datasets.train.max_prompt_length=8",
    )


def test_flops_are_those_that_torch_counts(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    plan = row_plan(tmp_path, SMALL)
    body = LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation="eager")).model
    with FlopCounterMode(display=False) as counter:
        body(input_ids=torch.zeros(1, 64, dtype=torch.int64)).last_hidden_state.sum().backward()
    counted = row_flops(plan.run, 64, 0).student
    # Eager attention computes all keys, of which a causal kernel skips half.
    attention = 3 * 2 * 2.0 * SMALL["hidden_size"] * 64 * 64 * SMALL["num_hidden_layers"] / 2
    assert counted + attention == pytest.approx(counter.get_total_flops(), rel=0.03)
    again = replace(plan.run, checkpointing=True)
    assert row_flops(again, 64, 0).student == pytest.approx(counted * 4 / 3)


EXPERTS = {"num_experts_per_tok": 2, "num_key_value_heads": 2}
WITH_EXPERTS = [
    # The first block has none.
    {"model_type": "qwen3_moe", "num_experts": 8, "moe_intermediate_size": 96, "head_dim": 64}
    | {"mlp_only_layers": [0]},
    {"model_type": "olmoe", "num_experts": 8},
    # Its shared expert is met by every token.
    {"model_type": "qwen2_moe", "num_experts": 8, "moe_intermediate_size": 96}
    | {"shared_expert_intermediate_size": 160},
]


@pytest.mark.parametrize("fields", WITH_EXPERTS, ids=lambda fields: fields["model_type"])
def test_flops_of_experts_are_those_that_torch_counts(tmp_path, fields):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**SMALL, **EXPERTS, **fields}
    plan = row_plan(tmp_path, config)
    kwargs = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(config["model_type"], **kwargs), attn_implementation="eager"
    )
    model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model(input_ids=torch.zeros(1, 64, dtype=torch.int64))
    counted = row_flops(plan.run, 64, 0).student / 3
    attention = 2 * 2.0 * SMALL["hidden_size"] * 64 * 64 * SMALL["num_hidden_layers"] / 2
    assert counted + attention == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert plan.run.student.model.experts_per_token == 2
    assert not any("time without" in line for line in plan_lines(plan))


def test_experts_of_which_the_config_does_not_say_how_many_a_token_meets_are_named(tmp_path):
    fields = {"model_type": "deepseek_v2", "n_routed_experts": 8, "moe_intermediate_size": 96}
    plan = row_plan(tmp_path, {**SMALL, **fields, "first_k_dense_replace": 0})
    (line,) = (line for line in plan_lines(plan) if line.startswith("time without"))
    assert "of the student's blocks: its config does not say how many of these weights" in line
    share = plan_json(plan)["models"]["student"]["share_of_blocks_in_flops"]
    assert f" {1 - share:.0%} " in line
    assert 0 < share < 0.9
