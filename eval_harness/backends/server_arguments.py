"""What `--model server` takes among --model_args, checked before the server is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval_harness.backends.base import check_arguments
from eval_harness.errors import DistillensError
from eval_harness.shared.endpoint.openai_compatible import EXAMPLE, checked_base_url, key_headers
from eval_harness.shared.shortened import shortened

ARGUMENTS = (
    "base_url",
    "model",
    "num_concurrent",
    "batch_size",
    "timeout_s",
    "retry_s",
    "api_key_env",
)
_MOST_CONCURRENT = 1024
# lm-eval's arguments for such servers that have no meaning here, and what to do instead.
_INSTEAD = {
    "max_retries": "give retry_s, in seconds",
    "timeout": "give timeout_s",
    "tokenizer_backend": "drop it, prompts are tokenised here",
    "tokenized_requests": "drop it, prompts are always sent as token ids",
    "verify_certificate": "drop it, certificates are always verified",
    "max_gen_toks": "give max_gen_toks in --gen_kwargs",
    "seed": "give --seed",
}


@dataclass(frozen=True)
class Address:
    """Where the server is, and how it is asked.

    Attributes:
        base_url: without a slash at its end, such as http://localhost:8000/v1.
        model: what the server calls it; None: the only one that it has.
        num_concurrent: requests in flight.
        timeout_s: longest wait for one answer, in seconds.
        retry_s: how long a server may be away before the run gives up, in seconds.
        api_key_env: environment variable with the key; None: see `key_headers`.
    """

    base_url: str
    model: str | None = None
    num_concurrent: int = 32
    timeout_s: float = 600.0
    retry_s: float = 300.0
    api_key_env: str | None = None

    def headers(self) -> dict[str, str]:
        """With the key, which is nowhere else: not in results, not in errors.

        Raises:
            DistillensError: `api_key_env` is not set, or holds no key.
        """
        return key_headers(
            self.base_url, variable=self.api_key_env, flag="--model_args api_key_env"
        )


def checked_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Address`, and `dtype`.

    Args:
        given: `batch_size` is lm-eval's name on the command line for `num_concurrent`.
    Raises:
        DistillensError: an unknown key, a wrong value, or a type of weights, which is the server's.
    """
    for key, instead in _INSTEAD.items():
        if key in given:
            raise DistillensError(f"--model_args {key}: --model server has none; {instead}")
    check_arguments("server", dict(given), ("dtype", *ARGUMENTS))
    dtype = given.get("dtype", "auto")
    if dtype != "auto":
        raise DistillensError(
            f"--model server: found dtype {dtype} (of --model_args, or of the protocol), but the "
            "type of the weights is the server's; start it with --dtype, and drop dtype here"
        )
    found: dict[str, Any] = {"dtype": dtype, "base_url": _base_url(given.get("base_url"))}
    for key in ("model", "api_key_env"):
        value = given.get(key)
        if value is None:
            continue
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise DistillensError(
                f"--model_args {key} = {shortened(repr(value))}, expected a name; put it in quotes"
            )
        found[key] = value
    concurrent = [given[key] for key in ("num_concurrent", "batch_size") if key in given]
    for value in concurrent:
        is_count = isinstance(value, int) and not isinstance(value, bool)
        if not is_count or not 1 <= value <= _MOST_CONCURRENT or value != concurrent[0]:
            raise DistillensError(
                f"num_concurrent = {shortened(repr(concurrent[0]))} (--batch_size means the same), "
                f"expected one integer from 1 to {_MOST_CONCURRENT}"
            )
        found["num_concurrent"] = value
    for key, least in (("timeout_s", 0.001), ("retry_s", 0.0)):
        value = given.get(key)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= 1e6:
            raise DistillensError(
                f"--model_args {key} = {shortened(repr(value))}, expected seconds, at least {least}"
            )
        found[key] = float(value)
    return found


def address_of(arguments: Mapping[str, Any]) -> Address:
    """Of what `checked_arguments` gave."""
    return Address(**{key: value for key, value in arguments.items() if key != "dtype"})


def _base_url(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DistillensError(
            f"--model_args: no base_url=..., expected the server's address, such as {EXAMPLE}"
        )
    return checked_base_url(value, flag="--model_args base_url")
