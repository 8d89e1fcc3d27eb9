"""What the Hub knows before weights are fetched, without long waits if it does not answer."""

from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TIMEOUT_S = 10
_MAX_CONFIG_BYTES = 10_000_000


class UnreachableError(Exception):
    """Something is not here and cannot be fetched now; the message says why."""


def is_path(name: str) -> bool:
    """Whether a name can only be a path: Hub names have at most one slash, and not at the start."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


class Hub:
    """The Hub as one validation sees it: after one request without an answer, no second is made."""

    def __init__(self) -> None:
        self._down: str | None = None

    def require(self, kind: str, name: str, revision: str | None, where: str) -> None:
        """Makes sure that a repository exists.

        Args:
            kind: model or dataset.
            where: the recipe key, for the error.
        Raises:
            DistillensError: there is no such repository, or no such revision, or it is private.
            UnreachableError: the Hub does not answer.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if self._down is not None:
            raise UnreachableError(self._down)
        try:
            HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_TIMEOUT_S)
        except RevisionNotFoundError as error:
            raise DistillensError(
                f"{where}: {name} on the Hub has no revision {revision!r}; delete the key to use "
                "the newest"
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise DistillensError(
                f"{where}: there is no folder {name[:100]!r} here and no such {kind} on the Hub "
                "(or it is private: hf auth login)"
            ) from error
        except Exception as error:
            # Offline mode, no network and a broken proxy each raise another library's exception.
            self._down = f"the Hub cannot be reached ({type(error).__name__})"
            raise UnreachableError(self._down) from error

    def config_fields(
        self, spec: TeacherSpec | StudentSpec, where: str
    ) -> dict[str, object] | None:
        """A model's config.json, from the local cache or the Hub, read without transformers.

        Returns:
            None if only `config` can find out.
        Raises:
            DistillensError: there is no such model.
            UnreachableError: not in the cache, and the Hub does not answer.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        name, revision = spec.name_or_path, spec.revision
        assert name is not None  # the caller has checked
        try:
            file = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:
            file = None
        if not isinstance(file, str):
            self.require("model", name, revision, where)
            try:
                file = hf_hub_download(name, "config.json", revision=revision)
            except Exception:  # whatever it is, `config` meets it again and reports it
                return None
        try:
            return read_json_object(Path(file), max_bytes=_MAX_CONFIG_BYTES)
        except DistillensError:
            return None

    def config(self, spec: TeacherSpec | StudentSpec, where: str) -> "PretrainedConfig":
        """A model's transformers config, from the local cache or the Hub.

        Args:
            spec: a model section of the recipe with name_or_path, revision, trust_remote_code.
        Raises:
            DistillensError: there is no such model, or no transformers config in it.
            UnreachableError: not in the cache, and the Hub does not answer.
        """
        from transformers import AutoConfig

        assert spec.name_or_path is not None  # the caller has checked
        options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
        try:
            return AutoConfig.from_pretrained(spec.name_or_path, local_files_only=True, **options)
        except (OSError, ValueError):
            # transformers retries for half a minute if nothing answers, so ask first.
            self.require("model", spec.name_or_path, spec.revision, where)
        except Exception as error:  # config classes validate with exceptions of their own
            raise DistillensError(f"{where}: {_reason(error)}") from error
        try:
            return AutoConfig.from_pretrained(spec.name_or_path, **options)
        except Exception as error:
            raise DistillensError(f"{where}: {_reason(error)}") from error

    def require_tokenizer(self, name: str, revision: str | None, where: str) -> None:
        """Makes sure that loading a tokenizer will not wait for a Hub that does not answer.

        Raises:
            DistillensError: there is no such repository.
            UnreachableError: the Hub does not answer, and the cache alone may not be used.
        """
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "tokenizer_config.json", revision=revision)
        except HFValidationError as error:
            raise DistillensError(
                f"{where}: there is no folder {name[:100]!r} here, and the Hub has no such names"
            ) from error
        if not (constants.HF_HUB_OFFLINE and isinstance(cached, str)):
            self.require("model", name, revision, where)


def _reason(error: Exception) -> str:
    """The first line of an exception's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
