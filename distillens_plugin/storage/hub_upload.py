"""`push_to_hub`: the `best` model of a finished run goes to the Hub, by huggingface_hub.

What can be wrong with name and token is found before training. The upload is the run's last act:
when it fails, everything is already on disk.
"""

import shlex
from pathlib import Path

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage import run_folder
from eval_harness.errors import RunFailure
from eval_harness.shared.endpoint.hub_access import check_hub_access, first_line
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.json_files import read_json_object

_MAX_RECORD_BYTES = 10_000


def check_upload(recipe: Recipe) -> list[str]:
    """Whether the Hub would take the model: a valid name, and a token that may write there.

    Returns:
        A line; none without `push_to_hub`. A Hub that does not answer now may answer at the end.
    Raises:
        DistillensError: the name is invalid; there is no token, or it may not write there.
    """
    name = recipe.push_to_hub
    if name is None:
        return []
    where = recipe.where("push_to_hub")
    line = check_hub_access(
        name, kind="model", what="push_to_hub", where=where, otherwise="delete the key"
    )
    return [line]


def push_best(recipe: Recipe, folder: Path) -> str | None:
    """Uploads `best` of a finished run, unless that has been done; the main process calls it.

    Args:
        folder: of the run; `pushed.json` there says afterwards what is on the Hub.
    Returns:
        A line to print; None without `push_to_hub`.
    Raises:
        RunFailure: the upload failed; names the command that does it by hand.
    """
    name, best = recipe.push_to_hub, folder / run_folder.BEST
    if name is None:
        return None
    record = folder / run_folder.PUSHED
    if record.is_file():
        done = read_json_object(record, max_bytes=_MAX_RECORD_BYTES)
        if done.get("push_to_hub") == name:
            return f"on the Hub already: {done.get('url')}"
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        repo = api.create_repo(name, private=recipe.hub_private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo.repo_id, folder_path=best, commit_message="Upload the best model"
        )
    except Exception as error:  # whatever it is, the model is safe and must be found
        private = " --private" if recipe.hub_private else ""
        command = f"hf upload {shlex.quote(name)} {shlex.quote(str(best))} .{private}"
        raise RunFailure(
            f"push_to_hub: the upload failed ({first_line(error)}); the run is complete, nothing "
            f"is lost: try again with --resume, or by hand: {command}"
        ) from error
    write_json(record, {"push_to_hub": name, "url": str(repo), "commit": commit.oid})
    return f"on the Hub: {repo}"
