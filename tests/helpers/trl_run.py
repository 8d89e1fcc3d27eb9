"""TRL's trainers on tiny models and rows, and the losses that they must give, in float64."""

import os

# Before TRL is imported, which warns about each of its experimental trainers.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from small_models import small_model
from small_tokenizers import byte_level
from trl import DistillationConfig
from trl.experimental.gkd import GKDConfig, GKDTrainer

from distillens_plugin.integrations.transformers.arguments import DistillLensArguments
from distillens_plugin.integrations.trl import (
    DistillLensDistillationTrainer,
    DistillLensGKDMixin,
)

LAYERS = "1,2:1,3"
PAIRS = [(1, 1), (2, 3)]
QUESTIONS = ["hi", "what is two and two?", "a", "say something", "why", "the sky is", "go", "and?"]


def tokenizer():
    return byte_level()


def student_and_teacher(name="llama", dtype=torch.float64):
    """Of different width and depth; many ids end a completion, so that lengths differ."""
    tok = tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
    vocab = len(tok) + 5
    student = small_model(name, layers=3, width=32, vocab=vocab, seed=1, dtype=dtype, **ids)
    teacher = small_model(name, layers=4, width=48, vocab=vocab, seed=2, dtype=dtype, **ids)
    for model in (student, teacher):
        if dtype == torch.float64:
            # Eager attention gives NaN at padded positions there: twice the lowest number.
            model.set_attn_implementation("sdpa")
        model.generation_config.eos_token_id = [tok.eos_token_id, *range(0, vocab, 9)]
    return student, teacher


def student_as_it_is(student):
    """A copy; a deep copy would keep a forward that TRL put on the model, and so its weights."""
    copy = student_and_teacher()[0]
    copy.load_state_dict(student.state_dict())
    return copy


def prompts():
    return Dataset.from_list([{"prompt": [{"role": "user", "content": q}]} for q in QUESTIONS])


def dialogues():
    return Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": "x" * (1 + index)},
                ]
            }
            for index, question in enumerate(QUESTIONS)
        ]
    )


def settings(folder, **more):
    """Fields of either trainer's config: greedy, float32 arithmetic left alone, quiet."""
    return {
        "output_dir": str(folder),
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    } | more


def lens_arguments(**more):
    return DistillLensArguments(**({"layers": LAYERS, "norm": "final", "beta": 0.3} | more))


class LensGKDTrainer(DistillLensGKDMixin, GKDTrainer):
    """What a user writes."""


def distillation_config(folder, **more):
    own = {"max_completion_length": 6, "shuffle_dataset": False}
    return DistillationConfig(**settings(folder, **(own | more)))


def distillation_trainer(
    folder, *, models=None, distillens=None, kind=DistillLensDistillationTrainer, **more
):
    """`more` is of the config, or eval_dataset or peft_config."""
    own = {k: more.pop(k) for k in ("eval_dataset", "peft_config") if k in more}
    student, teacher = models or student_and_teacher()
    return kind(
        student,
        teacher,
        distillation_config(folder, **more),
        train_dataset=prompts(),
        processing_class=tokenizer(),
        distillens=distillens or lens_arguments(),
        **own,
    )


def gkd_config(folder, **more):
    return GKDConfig(**settings(folder, **({"max_new_tokens": 6, "max_length": 64} | more)))


def gkd_trainer(folder, *, models=None, distillens=None, kind=LensGKDTrainer, **more):
    """`more` is of the config, or eval_dataset."""
    own = {k: more.pop(k) for k in ("eval_dataset",) if k in more}
    student, teacher = models or student_and_teacher()
    return kind(
        student,
        teacher,
        gkd_config(folder, **more),
        train_dataset=dialogues(),
        processing_class=tokenizer(),
        distillens=distillens or lens_arguments(),
        **own,
    )


def mixed_divergence(teacher_logits, student_logits, beta):
    """beta KL(teacher, m) + (1 - beta) KL(student, m) summed over rows; at 0 and 1 the plain KLs.

    Args:
        teacher_logits, student_logits: [N, V].
    """
    p, q = (x.log_softmax(-1) for x in (teacher_logits, student_logits))
    if beta in (0, 1):
        return (p.exp() * (p - q)).sum() if beta == 0 else (q.exp() * (q - p)).sum()
    m = torch.log(beta * p.exp() + (1 - beta) * q.exp())
    return beta * (p.exp() * (p - m)).sum() + (1 - beta) * (q.exp() * (q - m)).sum()


def expected_losses(student, teacher, ids, mask, labels, *, own_beta, lens_beta=0.3):
    """Sums over supervised positions: TRL's own loss, and the lens's mean over PAIRS."""
    models = (student, teacher)
    ran = [x(input_ids=ids, attention_mask=mask, output_hidden_states=True) for x in models]
    supervised = labels[:, 1:] != -100
    rows = [[h[:, :-1][supervised] for h in x.hidden_states] for x in ran]
    own = mixed_divergence(*(x.logits[:, :-1][supervised] for x in reversed(ran)), own_beta)
    lens = [
        mixed_divergence(
            teacher.lm_head(teacher.model.norm(rows[1][b])),
            student.lm_head(student.model.norm(rows[0][a])),
            lens_beta,
        )
        for a, b in PAIRS
    ]
    return own, sum(lens) / len(lens), int(supervised.sum())


def weights(model):
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def is_apart(first, second):
    """Whether any weight differs by more than rounding."""
    return (weights(first) - weights(second)).abs().max() > 1e-6


def learnt_with_distillation(folder, batch_size):
    """This process's rank, and what ten steps on greedy answers leave."""
    greedy = {"do_sample": False}
    trainer = distillation_trainer(
        folder / "distillation",
        per_device_train_batch_size=batch_size,
        generation_kwargs=greedy,
        eval_dataset=prompts(),
    )
    rank, learnt = _learnt(trainer)
    return rank, learnt | {"evaluated": trainer.evaluate()["eval_lens"]}


def learnt_with_gkd(folder, batch_size):
    """This process's rank, and what ten steps on the dataset's answers leave."""
    return _learnt(gkd_trainer(folder / "gkd", per_device_train_batch_size=batch_size, lmbda=0.0))


def _learnt(trainer):
    trainer.train()
    return trainer.args.process_index, {
        "weights": weights(trainer.model),
        "lens": logged(trainer, "lens"),
        "pair": logged(trainer, "lens/2-3"),
        "wrapper": type(trainer.model_wrapped).__name__,
    }
