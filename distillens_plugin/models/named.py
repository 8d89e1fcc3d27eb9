"""A model that a command line names: a folder, a Hub name, or a peft adapter's folder."""

import os
from pathlib import Path

from distillens_plugin.recipe.schema.base import checked
from distillens_plugin.recipe.schema.models import TeacherSpec
from eval_harness.errors import DistillensError
from eval_harness.shared.files.json_files import read_json_object

_MAX_CONFIG_BYTES = 10_000_000


def model_spec(
    name: str, *, dtype: str = "float32", revision: str | None = None, trusted: bool = False
) -> TeacherSpec:
    """A recipe's section for a model, so that it is loaded as a recipe's teacher is.

    An adapter's folder is the adapter of the base that it names.

    Args:
        revision: branch, tag or commit on the Hub, of an adapter's base too; None: as the adapter
            says, or the newest.
        trusted: run the model repository's own code.
    Raises:
        DistillensError: the adapter's settings cannot be read, or name no base.
    """
    settings = {"dtype": dtype, "trust_remote_code": trusted}
    adapter, config = Path(name) / "adapter_config.json", Path(name) / "config.json"
    # Path.is_file would raise on a name that no file can have.
    if not os.path.isfile(adapter) or os.path.isfile(config):
        return _spec(name, {**settings, "name_or_path": name, "revision": revision})
    fields = read_json_object(adapter, max_bytes=_MAX_CONFIG_BYTES)
    base, of_base = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(base, str) or not base:
        raise DistillensError(
            f"{adapter}: base_model_name_or_path = {base!r}, expected the base's folder or Hub name"
        )
    if revision is None and isinstance(of_base, str):
        revision = of_base
    named = {"name_or_path": base, "revision": revision, "adapter": name}
    return _spec(str(adapter), {**settings, **named})


def _spec(where: str, fields: dict[str, object]) -> TeacherSpec:
    return checked(TeacherSpec, fields, lambda at: ": ".join([where, ".".join(map(str, at))]))
