"""Loads a folder's tokenizer; its files are checked first, so that errors name the broken one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import (
    json_type,
    read_json_object,
    refuse_huge_numbers,
    regular_size,
    shown,
)
from eval_harness.shared.model_folder.foreign_errors import foreign_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The largest known ones have 33 MB (tokenizer.json) and 1.5 MB (the others).
_MAX_BYTES = {
    "tokenizer.json": 200_000_000,
    "tokenizer_config.json": 20_000_000,
    "special_tokens_map.json": 20_000_000,
    "added_tokens.json": 20_000_000,
    "vocab.json": 200_000_000,
}
# The largest known ones have a few thousand; loading visits each more than once.
_MAX_ADDED_TOKENS = 100_000
_ADDED_KEYS = {"tokenizer.json": "added_tokens", "tokenizer_config.json": "added_tokens_decoder"}
_PLAIN_FILES = ("tokenizer.model", "merges.txt", "vocab.txt", "chat_template.jinja")
# transformers writes 10^30 for "no limit".
_UNLIMITED = frozenset({"model_max_length", "max_length"})
_TOKEN_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token")


def check_tokenizer_files(folder: Path) -> None:
    """Refuses tokenizer files that no library could read; files may be missing.

    Raises:
        DistillensError: names file and key.
    """
    for name, max_bytes in _MAX_BYTES.items():
        path = folder / name
        if not path.exists():
            continue
        fields = read_json_object(path, max_bytes=max_bytes)
        refuse_huge_numbers(path, fields, unlimited=_UNLIMITED)
        added = fields if name == "added_tokens.json" else fields.get(_ADDED_KEYS.get(name, ""))
        _check_num_added(path, added)
        if name in ("tokenizer_config.json", "special_tokens_map.json"):
            _check_tokens(path, fields)
    for name in _PLAIN_FILES:
        if (folder / name).exists():
            regular_size(folder / name)


def _check_num_added(path: Path, added: object) -> None:
    if isinstance(added, dict | list) and len(added) > _MAX_ADDED_TOKENS:
        raise DistillensError(
            f"{path}: found {len(added)} added tokens, expected at most {_MAX_ADDED_TOKENS}"
        )


def _check_tokens(path: Path, fields: dict[str, Any]) -> None:
    for key in _TOKEN_KEYS:
        token = fields.get(key)
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None and not isinstance(content, str):
            raise DistillensError(f"{path}: {key} = {shown(token)}, expected a text or null")
    for key, kind in (("added_tokens_decoder", dict), ("tokenizer_class", str)):
        value = fields.get(key)
        if value is not None and not isinstance(value, kind):
            expected = json_type(kind())
            raise DistillensError(f"{path}: {key} = {shown(value)}, expected {expected} or null")


def load_folder_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """The transformers tokenizer in a folder.

    Raises:
        DistillensError: it cannot be loaded; names the file that is to blame, if it is known.
    """
    from transformers import AutoTokenizer

    check_tokenizer_files(folder)
    try:
        with foreign_errors("the tokenizer cannot be read"):
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except DistillensError as error:
        raise DistillensError(f"{_broken_file(folder)}: {error}") from error


def _broken_file(folder: Path) -> Path:
    """tokenizer.json if it does not load by itself, else the file with the settings."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.exists():
        try:
            with foreign_errors("not readable"):
                Tokenizer.from_file(str(path))
        except DistillensError:
            return path
    settings = folder / "tokenizer_config.json"
    return settings if settings.exists() else folder


def num_token_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """How many rows an embedding needs for all ids of a tokenizer."""
    return max([len(tokenizer), *(index + 1 for index in tokenizer.get_vocab().values())])
