"""`push_to_hub`: the `best` model of a finished run goes to the Hub, by huggingface_hub.

What can be wrong with name and token is found before training. The upload is the run's last act:
when it fails, everything is already on disk.
"""

import shlex
from pathlib import Path

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.storage import run_folder
from eval_harness.errors import DistillensError, RunFailure
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
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    where = recipe.where("push_to_hub")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise DistillensError(
            f"{where}: {name!r} is no name for a model on the Hub ({_reason(error)}); expected "
            "NAME or OWNER/NAME"
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise DistillensError(
            f"{where}: the Hub is switched off (HF_HUB_OFFLINE); unset it, or delete the key"
        )
    if get_token() is None:
        raise DistillensError(
            f"{where}: there is no token for the Hub; run `hf auth login`, set HF_TOKEN, or delete "
            "the key"
        )
    try:
        user = HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise DistillensError(
                f"{where}: the Hub refuses the token ({_reason(error)}); run `hf auth login` with "
                "one that may write"
            ) from error
        return [f"skipped push_to_hub because the Hub answers {error.response.status_code}"]
    except Exception as error:  # no network and a broken proxy raise other libraries' exceptions
        return [f"skipped push_to_hub because the Hub cannot be reached ({type(error).__name__})"]
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise DistillensError(
            f"{where}: the token of {user['name']} may only read; run `hf auth login` with one "
            "that may write"
        )
    owners = [user["name"], *(org["name"] for org in user.get("orgs", []))]
    owner = name.partition("/")[0] if "/" in name else user["name"]
    if owner not in owners:
        raise DistillensError(
            f"{where}: found the owner {owner}, but the token is that of {user['name']}; expected "
            f"one of {', '.join(owners)}"
        )
    return [f"ok push_to_hub: {user['name']} may write to {owner}"]


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
            f"push_to_hub: the upload failed ({_reason(error)}); the run is complete, nothing is "
            f"lost: try again with --resume, or by hand: {command}"
        ) from error
    write_json(record, {"push_to_hub": name, "url": str(repo), "commit": commit.oid})
    return f"on the Hub: {repo}"


def _reason(error: Exception) -> str:
    """The first line of an exception's text, which may be many."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")
