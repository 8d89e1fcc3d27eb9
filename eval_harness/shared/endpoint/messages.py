"""What a server's answers must look like: read strictly, refused by the field's name."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from eval_harness.shared.endpoint.http_json import EndpointFailure


class Message(BaseModel):
    """No text for a number, no 3.0 for a 3; fields that we do not read are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


_Kind = TypeVar("_Kind", bound=Message)


def read(kind: type[_Kind], answer: object, where: str) -> _Kind:
    """The answer as `kind`.

    Args:
        answer: decoded JSON; None (an empty answer) reads as {}.
        where: address and path, for the error.
    Raises:
        EndpointFailure: the first field that is missing or of another type.
    """
    try:
        return kind.model_validate({} if answer is None else answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "missing":
            problem = "found nothing, expected this field"
        else:
            expected = first["msg"].removeprefix("Input should be ")
            problem = f"found {_shown(first['input'])}, expected: {expected}"
        raise EndpointFailure(f"{where}: {_path(first['loc'])}: {problem}") from error


def _path(places: tuple[int | str, ...]) -> str:
    text = ""
    for place in places:
        text += f"[{place}]" if isinstance(place, int) else f".{place}"
    return text.lstrip(".")[:200] or "the answer"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
