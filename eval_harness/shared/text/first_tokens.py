"""What a tokenizer puts before a text."""

from typing import TYPE_CHECKING

from eval_harness.errors import DistillensError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Several probes, since some vocabularies lack a letter and return nothing for it.
_PROBES = ("a", "the", "1")


def first_tokens(
    tokenizer: "PreTrainedTokenizerBase", add_bos_token: bool | str
) -> tuple[int, ...]:
    """Token ids that prompts begin with; see `TextEncoder` for `add_bos_token`.

    Raises:
        DistillensError: a first token is required but there is none.
    """
    if add_bos_token is False:
        return ()
    own = _own_prefix(tokenizer)
    if add_bos_token == "auto" or own:
        return own
    if tokenizer.bos_token_id is None:
        raise DistillensError(
            f"add_bos_token = true, but the tokenizer {tokenizer.name_or_path!r} has no bos_token; "
            "set it to auto or false"
        )
    return (tokenizer.bos_token_id,)


def check_add_bos_token(value: object, where: str) -> bool | str:
    """Returns `value` if it is auto, true or false.

    Raises:
        DistillensError: names `where`.
    """
    if value == "auto" or isinstance(value, bool):
        return value
    raise DistillensError(f"{where} = {value!r}, expected auto, true or false")


def _own_prefix(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """What the tokenizer puts before a text; what follows one is up to the template."""
    whole: list[int] = []
    for text in _PROBES:
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer(text)["input_ids"]
        # A text without a token could be anywhere.
        for start in range(len(whole) - len(plain) + 1) if plain else ():
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start])
    return (whole[0],) if whole[:1] == [tokenizer.bos_token_id] else ()
