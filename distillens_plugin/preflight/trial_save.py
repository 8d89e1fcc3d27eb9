"""Whether a student can be saved, tried before it is trained: everything but the weights."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distillens_plugin.lens.probe import plain_model
from distillens_plugin.models.adapters import has_base
from distillens_plugin.models.tokenizers import load_tokenizer
from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from peft import PeftModel


def check_saving(
    model: "PreTrainedModel | PeftModel",
    tokenizer: PreTrainedTokenizerBase,
    *,
    where: str,
    trust_remote_code: bool = False,
) -> None:
    """Saves configuration, generation settings and tokenizer to a temporary folder, and reads them.

    Each weight stands in as one number, so that weights which share memory in a way that cannot be
    saved are found as well.

    Args:
        model: unwrapped, possibly a PeftModel.
        where: the model's YAML path, for errors.
    Raises:
        DistillensError: what could not be saved or read back, and why.
    """
    plain = cast(PreTrainedModel, plain_model(model))
    with tempfile.TemporaryDirectory(prefix="distillens-") as name:
        folder = Path(name)
        steps = {
            "the model's configuration or weights": lambda: plain.save_pretrained(
                folder, state_dict=_stand_ins(plain), save_original_format=False
            ),
            "its config.json": lambda: AutoConfig.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            ),
            "its generation_config.json": lambda: GenerationConfig.from_pretrained(folder),
            "the tokenizer": lambda: tokenizer.save_pretrained(folder),
            "the saved tokenizer": lambda: load_tokenizer(
                str(folder), trust_remote_code=trust_remote_code
            ),
        }
        if plain is not model and has_base(model):
            steps["its adapter"] = lambda: model.save_pretrained(
                folder / "adapter", save_embedding_layers=False
            )
        for what, step in steps.items():
            try:
                step()
            except Exception as error:  # whatever a configuration or tokenizer class raises
                raise DistillensError(
                    f"{where}: {what} could not be saved after training ({_one_line(error)}); "
                    "correct the files of the model that training starts from"
                ) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:397]}..."


def _stand_ins(plain: nn.Module) -> dict[str, Tensor]:
    """One number for each weight; weights that share memory share theirs."""
    numbers: dict[int, Tensor] = {}
    found = {}
    adapted = {path for path, module in plain.named_modules() if hasattr(module, "base_layer")}
    for name, tensor in plain.state_dict(keep_vars=True).items():
        path, _, rest = name.partition(".base_layer.")
        if any(name.startswith(f"{other}.") for other in adapted) and path not in adapted:
            continue  # of the adapter, which is merged in
        if path in adapted:
            # An adapted weight gets memory of its own when it is merged.
            found[f"{path}.{rest}"] = torch.zeros(1)
        else:
            found[name] = numbers.setdefault(id(tensor), torch.zeros(1))
    return found
