"""The settings for reading instruction data; sections of a recipe provide them."""

from collections.abc import Mapping
from typing import Protocol


def key_of(where: str, key: str) -> str:
    """Where a key of the settings is given, for errors: `r.yaml:3: datasets.train.template`.

    Args:
        where: of the section; `--data` in a command without a recipe, whose flag it is for `path`:
            other keys have flags of their own names.
    """
    if where == "--data":
        return where if key == "path" else f"--{key}"
    return f"{where}.{key}"


class DatasetSpec(Protocol):
    """What to read and how.

    Defaults, ranges and descriptions are in `recipe/schema/data.py`.

    Attributes:
        path: a file, a folder, or a name on the Hub.
        name: the configuration of a Hub data set.
        data_files: one file of a Hub repository or folder.
        split: of a Hub data set or folder; None leaves it to the caller.
        columns: the source's column by the name that rows have here (`data.columns.FIELDS`).
        streaming: read rows while training instead of before it.
        shuffle_buffer: rows among which the next one of a stream is drawn; 0 keeps their order.
        newline: what stands for a newline in the rows, `<n>` in MiniLLM's ready prompts; or None.
        template: a name of `eval_harness.shared.text.templates` or a format string; not used by
            rows that bring a ready `prompt`.
        supervise: which of an assistant's turns in a conversation are trained on: `all_turns` or
            `last_turn`.
        add_bos_token: how prompts begin: auto, as the tokenizer begins a text; true, with its first
            token; false, with what the template has.
        max_length: prompt, response and end token together, in tokens.
        max_prompt_length: in tokens, below `max_length`; of a conversation, up to its first answer
            that is trained on.
        long_prompts: `drop` as the paper does, or `cut` the text in them, never the template.
        num_rows: only the first rows that are read; None is all.
        loss_on_prompt: supervise the prompt too.
    """

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def data_files(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def columns(self) -> Mapping[str, str]: ...
    @property
    def streaming(self) -> bool: ...
    @property
    def shuffle_buffer(self) -> int | None: ...
    @property
    def newline(self) -> str | None: ...
    @property
    def template(self) -> str: ...
    @property
    def supervise(self) -> str: ...
    @property
    def add_bos_token(self) -> bool | str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def max_prompt_length(self) -> int: ...
    @property
    def long_prompts(self) -> str: ...
    @property
    def num_rows(self) -> int | None: ...
    @property
    def loss_on_prompt(self) -> bool: ...
