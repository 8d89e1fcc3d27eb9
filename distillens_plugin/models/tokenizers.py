"""Loading tokenizers, and whether teacher and student share one vocabulary."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object
from eval_harness.shared.model_folder.tokenizer_files import check_tokenizer_files
from eval_harness.shared.text.tokenisation import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_NAMED = 3
# Classes that need only tokenizer.json; AutoTokenizer gives the same class for both names.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_MAX_CONFIG_BYTES = 20_000_000


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """A tokenizer that can end and pad a text; a missing pad token becomes the end token.

    Args:
        path: a folder that `save_pretrained` wrote, or a model's name on the Hub.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the tokenizer's own code.
    Raises:
        DistillensError: it cannot be loaded, gives no tokens, or has no end-of-text token.
    """
    if os.path.isdir(path):
        check_tokenizer_files(Path(path))
    try:
        if _needs_torch(path):
            from transformers import AutoTokenizer as Loader
        else:
            from transformers import PreTrainedTokenizerFast as Loader
        tokenizer = Loader.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the loader raises whatever its many formats raise
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise DistillensError(
            f"tokenizer {path!r} cannot be loaded: {reason.strip()}; expected a folder with "
            "tokenizer.json, or a model on the Hub that can be reached"
        ) from error
    # For some folders with unknown files, transformers silently gives an empty tokenizer.
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise DistillensError(
            f"tokenizer {path!r} finds no tokens in a text; is tokenizer.json missing?"
        )
    if tokenizer.eos_token_id is None:
        raise DistillensError(
            f"tokenizer {path!r} has no eos_token, so no response could end; "
            "set it in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _needs_torch(path: str) -> bool:
    """Whether loading the tokenizer loads torch: for all but a plain one in a folder of its own.

    AutoTokenizer looks at the model's config first, for which it loads torch.

    Args:
        path: as of `load_tokenizer`; its files have been checked.
    """
    folder = Path(path)
    settings = folder / "tokenizer_config.json"
    if (folder / "config.json").exists() or not (folder / "tokenizer.json").is_file():
        return True
    if not settings.is_file():
        return True
    fields = read_json_object(settings, max_bytes=_MAX_CONFIG_BYTES)
    return fields.get("tokenizer_class") not in _PLAIN_CLASSES or "auto_map" in fields


def beginnings_differ(
    teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase"
) -> list[str]:
    """A warning if the two tokenizers begin a text differently; the data uses the student's."""
    ids = [TextEncoder(tokenizer).prefix_ids for tokenizer in (teacher, student)]
    if ids[0] == ids[1]:
        return []
    shown = [
        repr("".join(tokenizer.convert_ids_to_tokens(list(found)))) if found else "no first token"
        for tokenizer, found in zip((teacher, student), ids, strict=True)
    ]
    return [
        f"WARNING: the teacher's tokenizer begins a text with {shown[0]}, the student's, which "
        f"makes the data, with {shown[1]}; set add_bos_token to true or false"
    ]


def check_vocabularies(
    teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase"
) -> int:
    """Refuses tokenizers that give one id to different tokens.

    Ids that only one of them has (added tokens) are fine, and so are models whose embedding is
    padded beyond the vocabulary: only the common ids are compared and distilled.

    Args:
        teacher: the teacher's tokenizer.
        student: the student's tokenizer.
    Returns:
        The number of common ids.
    Raises:
        DistillensError: names the first ids that differ, with both tokens.
    """
    teacher_tokens = {index: token for token, index in teacher.get_vocab().items()}
    student_tokens = {index: token for token, index in student.get_vocab().items()}
    common = teacher_tokens.keys() & student_tokens.keys()
    differing = sorted(i for i in common if teacher_tokens[i] != student_tokens[i])
    if differing:
        named = ", ".join(
            f"{i} ({teacher_tokens[i]!r} and {student_tokens[i]!r})" for i in differing[:_NUM_NAMED]
        )
        raise DistillensError(
            f"teacher and student have different tokenizers: {len(differing)} of {len(common)} "
            f"common ids differ, the first are {named}; distributions over tokens can only be "
            "compared over one vocabulary, so choose a student of the teacher's family"
        )
    return len(common)
