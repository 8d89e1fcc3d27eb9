"""The messages that users meet most: where the code says each, what it means, how to mend it.

`text` is the message with a name in angle brackets for each part that differs; it is looked up in
the code (`in_code`), so that this list cannot fall behind.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Message:
    """One message: the module that says it, its text, its meaning, and the mend."""

    module: str
    text: str
    meaning: str
    mend: str


_PLACE = re.compile(r"<[^<>]+>")


def in_code(message: Message, repository: Path) -> bool:
    """Whether the module has a text with this one in it, at whatever parts that differ."""
    wanted = _PLACE.sub("…", message.text)
    tree = ast.parse((repository / message.module).read_text("utf-8"))
    return any(wanted in text for text in map(_text, ast.walk(tree)) if text)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        return "".join(map(str, parts))
    return None


SECTIONS = {
    "Recipes and folders": [
        Message(
            "distillens_plugin/recipe/packaged.py",
            "and no packaged recipe of that name, expected a YAML file or a name from "
            "`distillens recipes`",
            "The recipe that was named is neither a file nor a shipped recipe.",
            "Check the path; `distillens recipes` lists the names.",
        ),
        Message(
            "distillens_plugin/recipe/schema/base.py",
            "unknown key; <hint> (keys here: <keys>)",
            "A recipe has a key that nothing reads. A typing error would otherwise go unnoticed.",
            "Take one of the keys in the message; [all keys](recipe_keys.md).",
        ),
        Message(
            "eval_harness/shared/model_folder/trust.py",
            "found <module>, which <effect>; <flag>",
            "A recipe, model or data set would run code of its own.",
            "Read that code. If you trust it, add the flag that the message names "
            "([security](security.md)).",
        ),
        Message(
            "distillens_plugin/storage/run_folder.py",
            "holds a run (<files>); continue it with --resume, replace it with --overwrite, or "
            "name another folder with --output_dir",
            "The output folder has a run in it, and no run is replaced unasked.",
            "One of the three flags.",
        ),
        Message(
            "distillens_plugin/training/resume.py",
            "is another recipe (<difference>); use that one, name another folder with "
            "--output_dir, or",
            "`--resume` was asked to continue a run under another recipe.",
            "Undo the difference that is named, or start a run of its own.",
        ),
        Message(
            "distillens_plugin/storage/fingerprint.py",
            "started with other content (<changes>); restore that, or start over with --overwrite",
            "Data, weights or tokenizer have changed since the run began.",
            "Bring the old files back, or train anew. Where a model's branch on the Hub has a new "
            "commit, the message has the `--set` that names the old one.",
        ),
    ],
    "Models": [
        Message(
            "distillens_plugin/models/hub.py",
            "there is no folder <name> here and no such <model> on the Hub (or it is private: "
            "hf auth login)",
            "A name is neither a folder here nor a public repository.",
            "Check the spelling; for private ones log in with `hf auth login`.",
        ),
        Message(
            "distillens_plugin/models/tokenizers.py",
            "teacher and student have different tokenizers: <number> of <number> common ids "
            "differ, the first are <tokens>",
            "One id means different tokens, so the two distributions cannot be compared.",
            "Choose a student of the teacher's family ([which pairs work](your_own_pair.md)).",
        ),
        Message(
            "distillens_plugin/lens/discovery.py",
            "self-check failed: head(readout(last block)) is off from the model's own logits by "
            "<error> of the largest logit",
            "The lens found blocks, norm and head, but they do not give the model's logits.",
            "The architecture does something more; it is not supported "
            "([which pairs work](your_own_pair.md)).",
        ),
        Message(
            "distillens_plugin/lens/readout.py",
            "has no plain weight matrix (found: <type>); a quantised head cannot be read: load "
            "it unquantised (llm_int8_skip_modules)",
            "The unembedding is quantised or wrapped.",
            "Load the head unquantised.",
        ),
        Message(
            "distillens_plugin/lens/layers.py",
            "but the <student> has layers 0 to <number>",
            "A layer is named that the model does not have.",
            "`distillens hooks MODEL` lists the layers; 0 is the embeddings.",
        ),
        Message(
            "distillens_plugin/lens/probe.py",
            "is sharded (FSDP version 1, ZeRO-3 or tensor parallel), and the lens reads the "
            "unembedding outside the model's forward",
            "No process holds the whole unembedding.",
            "FSDP2 or ZeRO-2, from recipes/accelerate ([scaling](scale.md)).",
        ),
    ],
    "Data": [
        Message(
            "distillens_plugin/data/rows.py",
            "found the keys <keys>; expected instruction, output and perhaps input, or prompt "
            "and output, or messages",
            "A row has none of the forms that are read.",
            "Rename its columns, or map them with `columns` ([data](data.md)).",
        ),
        Message(
            "distillens_plugin/data/examples.py",
            "nothing is supervised, so nothing can be learnt: <counts>",
            "Every row was left out, or has an empty answer.",
            "The counts say which: give rows with responses, or raise `max_prompt_length`.",
        ),
        Message(
            "distillens_plugin/experiment/checks.py",
            "tokens, but the <student> has <number> positions; set max_length to <number> or less",
            "Rows are longer than the model's positions.",
            "Set `max_length` of that data set.",
        ),
        Message(
            "distillens_plugin/preflight/run_length.py",
            "training rows do not fill a batch of <size>",
            "With `drop_last` an epoch would have no batch.",
            "Lower `batch_size`, or set `drop_last: false`.",
        ),
    ],
    "While training": [
        Message(
            "distillens_plugin/training/trainer.py",
            "the loss is not finite: <terms>; the optimiser did not step and the last checkpoint "
            "is intact; lower the learning rate or check these rows",
            "A NaN or an infinity in a loss term, which is named with the rows of its batch.",
            "Lower the learning rate, lengthen the warm-up, or train in bf16 or float32 "
            "instead of fp16, and start over with `--overwrite`: `--resume` goes on under the same "
            "recipe alone.",
        ),
        Message(
            "distillens_plugin/experiment/accelerator.py",
            "the launcher started <number> processes, but accelerate joins none of them "
            "(<device>), so each would train alone",
            "Several processes were started on a machine without GPUs.",
            "`ACCELERATE_USE_CPU=true` before the launcher's command.",
        ),
        Message(
            "distillens_plugin/storage/kept_state.py",
            "cannot keep the state (<reason>); make room, or set resumable: false",
            "The disk is full or not writable. The state before is intact.",
            "Make room, then `--resume`.",
        ),
    ],
    "The loss in other trainers": [
        Message(
            "distillens_plugin/lens/output.py",
            "the loss needs the <output> of module <path> (layer <number>), but no hook recorded "
            "it; add it to forward_hook",
            "A torchdistill recipe of your own does not record a layer that a loss compares.",
            "Add the module to `forward_hook` ([torchdistill](torchdistill.md)).",
        ),
        Message(
            "distillens_plugin/losses/reading.py",
            "distillens losses read the output of distillens.forward, but <found>; set "
            "forward_proc: distillens.forward",
            "A torchdistill recipe runs the model by another forward procedure.",
            "Set `forward_proc` of both models.",
        ),
        Message(
            "distillens_plugin/attached/side.py",
            "has not run <since> (runs with a key-value cache do not count); run student and "
            "teacher on the batch before each loss",
            "`AttachedLens.loss` was called before the models ran on the batch.",
            "Call both models first ([trainers](trainers.md)).",
        ),
    ],
    "Evaluation": [
        Message(
            "eval_harness/backends/vllm_arguments.py",
            "--model vllm: vLLM is not installed",
            "vLLM is an extra, and lives in environments with a GPU.",
            "Install it, or evaluate with `--model hf`.",
        ),
        Message(
            "eval_harness/comparison/systems.py",
            "the systems answered different rows: <difference>; run both with the same --limit",
            "Differences are paired by row, so both systems need the same rows.",
            "Evaluate both with the same benchmark and `--limit`.",
        ),
    ],
}
