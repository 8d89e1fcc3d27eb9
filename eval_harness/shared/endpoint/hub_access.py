"""What the Hub would say to an upload, asked before the work whose result is uploaded."""

from eval_harness.errors import DistillensError


def check_hub_access(
    name: str, *, kind: str, what: str, where: str, otherwise: str, token: str | None = None
) -> str:
    """Whether the Hub would take a repository from us: a valid name, and a token that may write.

    Args:
        name: NAME or OWNER/NAME.
        kind: "model" or "dataset"; for messages.
        what: the setting that asks for the upload; for the returned line.
        where: what errors begin with.
        otherwise: what else the user may do ("delete the key"); the end of some messages.
        token: None: the one that huggingface_hub finds (HF_TOKEN, `hf auth login`).
    Returns:
        A line that begins with "ok" or "skipped". A Hub that does not answer now may answer later.
    Raises:
        DistillensError: the name is invalid; there is no token, or it may not write there.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise DistillensError(
            f"{where}: {name!r} is no name for a {kind} on the Hub ({first_line(error)}); expected "
            "NAME or OWNER/NAME"
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise DistillensError(
            f"{where}: the Hub is switched off (HF_HUB_OFFLINE); unset it, or {otherwise}"
        )
    if token is None and get_token() is None:
        raise DistillensError(
            f"{where}: there is no token for the Hub; run `hf auth login`, set HF_TOKEN, or "
            f"{otherwise}"
        )
    try:
        user = HfApi(token=token).whoami()
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise DistillensError(
                f"{where}: the Hub refuses the token ({first_line(error)}); run `hf auth login` "
                "with one that may write"
            ) from error
        return f"skipped {what} because the Hub answers {error.response.status_code}"
    except Exception as error:  # no network and a broken proxy raise other libraries' exceptions
        return f"skipped {what} because the Hub cannot be reached ({type(error).__name__})"
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
    return f"ok {what}: {user['name']} may write to {owner}"


def first_line(error: Exception) -> str:
    """The first line of an exception's text, which may be many."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")
