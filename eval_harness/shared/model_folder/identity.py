"""The model's files: found on disk or the Hub, identified by content, read without weights."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.model_folder.checks import CheckedFolder, check_model_folder
from eval_harness.shared.model_folder.config_files import token_ids
from eval_harness.shared.model_folder.tokenizer_files import load_folder_tokenizer, num_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = (".safetensors", ".bin")
# Files in a Hub repository that neither backend reads.
_IGNORED = (
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.gguf",
    "onnx/*",
    "original/*",
    "flax*",
    "tf_*",
)
_MORE_WEIGHTS = ("*.safetensors", "*.pt", "*.pth")


@dataclass(frozen=True)
class ModelFiles:
    """What a model's files describe, before its weights are loaded.

    Attributes:
        name: as the user gave it, with the adapter's name if there is one.
        folder: holds configuration and weights.
        adapter: folder of a peft adapter, or None.
        tokenizer: a transformers tokenizer.
        max_length: positions of the model, prompt and answer together; None if unlimited.
        stop_token_ids: tokens that end an answer, at least one unless the model has none.
        checkpoint_dtype: type of the weights on disk: float32, bfloat16 or float16.
        identity: for the fingerprint: names and digests of all files.
        num_ids: rows of the embedding, above all ids that the model has; None if unknown.
    """

    name: str
    folder: Path
    adapter: Path | None
    tokenizer: "PreTrainedTokenizerBase"
    max_length: int | None
    stop_token_ids: tuple[int, ...]
    checkpoint_dtype: str
    identity: dict[str, Any]
    num_ids: int | None = None


def read_model(
    pretrained: str,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    adapter: str | None = None,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    must_build: bool = True,
    must_have_weights: bool = True,
    working_folder: Path | None = None,
) -> ModelFiles:
    """Finds a model and reads its configuration, its tokenizer and the headers of its weights.

    Args:
        pretrained: a folder or a Hub name; `revision` is a branch, tag or commit of the latter.
        tokenizer: a folder or Hub name, of which no weights are read; None: the model's own.
        adapter: a peft folder or Hub name.
        max_length: the user's own limit, at most the model's.
        trust_remote_code: allow code that comes with the model.
        must_build: refuse an architecture that transformers lacks.
        must_have_weights: refuse a folder without weights, and download them.
        working_folder: where relative paths count from; None: this process's own. Names in results
            and fingerprints stay as they were given.
    Raises:
        DistillensError: files are missing, broken or do not belong together, a folder has no
            revision, the tokenizer has ids that the model lacks, or `max_length` exceeds the
            model's.
    """
    place = placed(pretrained, working_folder)
    if revision is not None and Path(place).is_dir():
        raise DistillensError(
            f"--model_args revision={revision}: {pretrained} is a folder here, which has no "
            "revisions; leave revision out, or give a Hub name"
        )
    folder = model_folder(place, revision, with_weights=must_have_weights)
    tokenizer_folder = folder
    if tokenizer:
        tokenizer_folder = model_folder(placed(tokenizer, working_folder), with_weights=False)
    adapter_folder = model_folder(placed(adapter, working_folder)) if adapter else None
    if adapter_folder and not (adapter_folder / "adapter_config.json").is_file():
        raise DistillensError(f"peft={adapter}: no adapter_config.json in {adapter_folder}")
    checked = check_model_folder(
        folder,
        adapter=adapter_folder,
        trust_remote_code=trust_remote_code,
        must_build=must_build,
        must_have_weights=must_have_weights,
    )
    loaded_tokenizer = _load_tokenizer(tokenizer_folder, trust_remote_code)
    _check_num_ids(folder, tokenizer_folder, checked, loaded_tokenizer)
    own_limit = _max_length(checked.config)
    if max_length is not None and own_limit is not None and max_length > own_limit:
        raise DistillensError(
            f"max_length = {max_length}, but {pretrained} has {own_limit} positions; lower it"
        )
    identity = {"name": pretrained, "files": files_digest(folder)}
    if tokenizer:
        # With the weights only where they are the model's own: a teacher that is trained further
        # still has the same tokenizer.
        is_own = tokenizer_folder.samefile(folder)
        identity["tokenizer"] = (
            identity["files"] if is_own else files_digest(tokenizer_folder, with_weights=False)
        )
    if adapter_folder:
        identity["adapter"] = files_digest(adapter_folder)
    return ModelFiles(
        name=f"{pretrained.rstrip('/')}+{str(adapter).rstrip('/')}" if adapter else pretrained,
        folder=folder,
        adapter=adapter_folder,
        tokenizer=loaded_tokenizer,
        max_length=max_length if max_length is not None else own_limit,
        stop_token_ids=_stop_token_ids(folder, checked, loaded_tokenizer),
        checkpoint_dtype=str(getattr(checked.config, "dtype", None) or "float32").removeprefix(
            "torch."
        ),
        identity=identity,
        num_ids=checked.num_ids,
    )


def placed(name: str, working_folder: Path | None) -> str:
    """A model's name as seen from here, if it is a path that counts from another folder."""
    if working_folder is None:
        return name
    inside = working_folder / name
    # What only this process's own folder has is another model of the same name.
    return str(inside) if inside.is_dir() or Path(name).exists() else name


def model_folder(name: str, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """The folder of a local model, or of a downloaded one.

    Raises:
        DistillensError: neither a folder nor a repository that can be downloaded.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file() and not list(path.glob("*.json")):
            raise DistillensError(f"{name}: no config.json in it, expected a model folder")
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DistillensError(f"{name}: no such folder, expected a model folder or a Hub name")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                ignore_patterns=[*_IGNORED, "*.bin", *([] if with_weights else _MORE_WEIGHTS)],
            )
        )
        if with_weights and not list(folder.glob("*.safetensors")):
            folder = Path(
                snapshot_download(name, revision=revision, ignore_patterns=list(_IGNORED))
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillensError(
            f"{name}: no such folder, and it cannot be downloaded from the Hub "
            f"({type(error).__name__}: {reason})"
        ) from error
    return folder


def files_digest(folder: Path, *, with_weights: bool = True) -> str:
    """Sixteen hexadecimal digits over names and contents of the files that decide the outputs."""
    suffixes = {".json", ".model", ".txt", ".jinja", ".py", *(_WEIGHTS if with_weights else ())}
    hashes = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in suffixes and file.is_file():
            with open(file, "rb") as stream:
                hashes[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest(hashes)


def _load_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    tokenizer = load_folder_tokenizer(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    return tokenizer


def _check_num_ids(
    folder: Path,
    tokenizer_folder: Path,
    checked: CheckedFolder,
    tokenizer: "PreTrainedTokenizerBase",
) -> None:
    """An id beyond the embedding's last row would be an index error in the middle of a run."""
    num_ids = num_token_ids(tokenizer)
    if checked.num_ids is not None and num_ids > checked.num_ids:
        raise DistillensError(
            f"{tokenizer_folder}: the tokenizer has {num_ids} ids, but the model {folder} has "
            f"{checked.num_ids}; use the model's own tokenizer, or resize its embeddings "
            "(resize_token_embeddings) and train them"
        )


def _max_length(config: Any) -> int | None:
    text_config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _stop_token_ids(
    folder: Path, checked: CheckedFolder, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[int, ...]:
    """Both backends get the same list, so they stop at the same place.

    Raises:
        DistillensError: an `eos_token_id` is not an id; names the file.
    """
    found: set[int] = set()
    for name, value in (
        ("config.json", checked.config.get_text_config().eos_token_id),
        ("generation_config.json", checked.generation.get("eos_token_id")),
        ("tokenizer_config.json", tokenizer.eos_token_id),
    ):
        try:
            ids = token_ids(value)
        except ValueError as error:
            raise DistillensError(f"{folder / name}: eos_token_id = {error}") from error
        beyond = [
            token
            for token in ids
            if token < 0 or (checked.num_ids is not None and token >= checked.num_ids)
        ]
        if beyond:
            print(
                f"{folder / name}: eos_token_id = {beyond[0]}, but the model has "
                f"{checked.num_ids} ids; ignored",
                file=sys.stderr,
            )
        found.update(token for token in ids if token not in beyond)
    return tuple(sorted(found))
