"""JSON files whose keys have types: a whole object, or one line on what is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_json import NotJsonError, decode
from eval_harness.shared.shortened import shortened

_LARGEST = 2**53  # every JSON reader holds integers up to here exactly

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


class Strict(BaseModel):
    """No conversions (text is not a number); unknown keys are allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


Model = TypeVar("Model", bound=BaseModel)


def check(model: type[Model], content: Mapping[str, Any], where: str, *, expected: str) -> Model:
    """The content as the model's object.

    Args:
        where: file, or file:line.
        expected: what the file should be, and what to do.
    Raises:
        DistillensError: names the first wrong key, what was found, and what was expected.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # pydantic names a union's members by their types, which are not keys of the file.
        place = ".".join(shown(part) for part in first["loc"] if not _is_type(part))
        if first["type"] == "missing":
            problem = f"no key {place}"
        else:
            reason = first["msg"].removeprefix("Value error, ").partition(" or instance of")[0]
            reason = reason.replace("Input should", "it should").replace("List ", "a list ")
            problem = f"{place} = {shown(first['input'], quoted=True)}: {reason}"
        raise DistillensError(f"{where}: {problem}; {expected}") from None


def read_object(file: Path, *, expected: str) -> dict[str, Any]:
    """The one JSON object that a file holds.

    Raises:
        DistillensError: it cannot be read, or holds no JSON object; names file, line and column.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        content = decode(text)
    except OSError as error:
        raise DistillensError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        reason = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise DistillensError(f"{file}: {reason}; {expected}") from error
    except NotJsonError as error:
        _refuse(file, text, error, expected)
    if not isinstance(content, dict):
        raise DistillensError(f"{file}: found no JSON object; {expected}")
    return content


def _refuse(file: Path, text: str, error: NotJsonError, expected: str) -> NoReturn:
    line = text.count("\n", 0, error.position) + 1
    column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
    raise DistillensError(f"{file}:{line}:{column}: {error.message}; {expected}") from error


def shown(value: object, *, quoted: bool = False) -> str:
    """A value for a message, shortened if it is long."""
    text = value if isinstance(value, str) and not quoted else repr(value)
    return shortened(text)


def _is_type(part: object) -> bool:
    return isinstance(part, str) and (
        part in ("str", "int", "float", "constrained-float") or part.startswith("list[")
    )
