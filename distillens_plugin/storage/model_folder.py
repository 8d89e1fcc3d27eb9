"""Model folders that appear whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillens_plugin.models.adapters import has_base
from distillens_plugin.models.merging import merged
from distillens_plugin.storage.model_card import adapter_notes
from eval_harness.errors import RunFailure
from eval_harness.shared.files.exchange import partial_of, remove, replace_folder
from eval_harness.shared.model_folder import trained_with


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
    *,
    loss_state: Mapping[str, Tensor] | None = None,
    note: str | None = None,
) -> None:
    """Writes weights (safetensors), configuration, generation settings, tokenizer and model card.

    Everything is written to a folder beside the target first, so a failure or a kill leaves the
    earlier folder in place. LoRA is merged in; its adapter is kept in `adapter/` too if the weights
    that it belongs to have a name.

    Args:
        folder: where transformers' from_pretrained will find the model.
        model: unwrapped causal LM, possibly a PeftModel.
        card: text of its README.md.
        loss_state: what the loss trained beside the model (projections); kept in a folder of its
            own, `loss/parameters.safetensors`, so that no loader takes it for the model's weights.
        note: how the training prompts looked (`trained_with`), for evaluation, and the step.
    Raises:
        RunFailure: the disk is full or the folder cannot be written.
    """
    partial = partial_of(folder)
    try:
        remove(partial)
        partial.mkdir(parents=True)
        plain = merged(model)
        plain.save_pretrained(partial)
        if plain is not model and has_base(model):
            # "auto" would ask the Hub whether the base has as many tokens.
            model.save_pretrained(partial / "adapter", save_embedding_layers=False)
        card = f"{card}{adapter_notes(model, plain)}"
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if note is not None:
            for saved in (partial, partial / "adapter"):
                if saved.is_dir():
                    (saved / trained_with.FILE).write_text(note, encoding="utf-8")
        if loss_state:
            (partial / "loss").mkdir()
            save_file(dict(loss_state), partial / "loss" / "parameters.safetensors")
        replace_folder(partial, folder)
    except BaseException as error:
        remove(partial)
        if not isinstance(error, Exception):
            raise
        raise RunFailure(
            f"{folder}: cannot save the model ({error}); what was saved before is intact"
        ) from error
