"""What all OpenAI-compatible endpoints have: an address, a key, and a list of models."""

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

from pydantic import Field

from eval_harness.errors import DistillensError
from eval_harness.shared.endpoint.http_json import PASSING, EndpointFailure, JsonClient
from eval_harness.shared.endpoint.messages import Message, read
from eval_harness.shared.near import near_names
from eval_harness.shared.shortened import shortened

EXAMPLE = "http://localhost:8000/v1"
DEFAULT_KEY = "OPENAI_API_KEY"
# Faults of a whole service that may pass; 500 and 529 are what overloaded ones give.
RETRIED = (*PASSING, 500, 529)
_CALLS = ("/chat/completions", "/completions", "/models")


class Served(Message):
    """A model that the endpoint has."""

    id: str


class ServedModels(Message):
    """Of /models."""

    data: list[Served] = Field(min_length=1)


def checked_base_url(text: str, *, flag: str) -> str:
    """The address without a call's path: lm-eval's users name /chat/completions too.

    Raises:
        DistillensError: no http or https address of a host, or one with a password or a query.
    """
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise DistillensError(f"{flag} {shortened(text)!r}: expected an address such as {EXAMPLE}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # The text may hold a password.
        raise DistillensError(
            f"{flag}: found a user, a query or a fragment in the address of {parts.hostname}; "
            f"expected one such as {EXAMPLE}, and a key only in the environment"
        )
    address = text.strip().rstrip("/")
    for call in _CALLS:
        address = address.removesuffix(call)
    return address


def key_headers(base_url: str, *, variable: str | None, flag: str) -> dict[str, str]:
    """The header with the API key, for `JsonClient`; none where there is no key.

    Args:
        variable: of the environment, which must then be set; None: OPENAI_API_KEY if it is set,
            unless it would leave this machine unencrypted.
        flag: that names the variable.
    Raises:
        DistillensError: the variable is not set, or holds no key. The key itself is never told.
    """
    key = os.environ.get(DEFAULT_KEY if variable is None else variable, "").strip()
    if not key:
        if variable is None:
            return {}
        raise DistillensError(f"{flag} {shortened(variable)}: not set in the environment; set it")
    if not (key.isascii() and key.isprintable()) or " " in key:
        name = DEFAULT_KEY if variable is None else shortened(variable)
        raise DistillensError(
            f"{name}: expected a key of ASCII letters, digits and signs without white space"
        )
    if variable is None and not _is_private(base_url):
        return {}
    return {"Authorization": f"Bearer {key}"}


def check_model_is_served(
    client: JsonClient, model: str, *, flag: str, key_flag: str = "--api_key_env"
) -> None:
    """One cheap request before a run: the endpoint answers, and has the model.

    An endpoint without a list of models, or one that is busy, is taken at its word.

    Args:
        flag: that names the model;  key_flag: that names the variable with the key.
    Raises:
        DistillensError: nothing answers there, the key is refused, or the model is another.
    """
    try:
        answer = client.ask("GET", "/models", patient=False)
        models = read(ServedModels, answer, f"{client.base_url}/models").data
    except EndpointFailure as error:
        if error.status in (404, 405, 501, *RETRIED):
            return
        advice = f"expected an OpenAI-compatible endpoint such as {EXAMPLE}"
        if error.status in (401, 403):
            advice = f"expected a key that it takes; {key_flag} names the variable with it"
        raise DistillensError(f"{error}; {advice}") from None
    served = [entry.id for entry in models]
    if model not in served:
        shown = ", ".join(shortened(name) for name in served[:8])
        rest = f" and {len(served) - 8} more" if len(served) > 8 else ""
        raise DistillensError(
            f"{flag} {shortened(model)}: {client.base_url} serves {shown}{rest}; name one of them"
            f"{near_names(model, served)}"
        )


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text.strip())
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts if text.strip().isprintable() and " " not in text.strip() else None


def _is_private(base_url: str) -> bool:
    """Whether nobody else can read what is sent: encrypted, or to this machine."""
    parts = urlsplit(base_url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
