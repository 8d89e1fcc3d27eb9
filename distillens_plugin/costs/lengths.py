"""How many rows and tokens a run has: from its data if they are here, else the most it allows."""

import os
from dataclasses import dataclass

from distillens_plugin.models.hub import is_path
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError

# As distillens.collate pads.
_MULTIPLE = 8
# Enough for a mean; tokenising all of a large data set would take minutes.
_SAMPLED_ROWS = 20_000


@dataclass(frozen=True)
class Lengths:
    """Of the training rows.

    Attributes:
        longest: tokens of the longest row, as padded; longest_supervised: most positions of a row
            that the losses read.
        tokens, supervised: means of a row; None if unknown.
        rows: how many; None if unknown.
        even: no two rows differ in length.
        source: where the numbers are from, for people.
    """

    longest: int
    longest_supervised: int
    tokens: float | None
    supervised: float | None
    rows: int | None
    even: bool
    source: str


def recipe_lengths(recipe: Recipe, *, rows: int | None, row_tokens: float | None) -> Lengths:
    """From the data where both they and the tokenizer are in local folders.

    Args:
        rows, row_tokens: given by the user; they replace what is found.
    Raises:
        DistillensError: the data are here but cannot be read, or rows are longer than allowed.
    """
    limit = recipe.datasets.train.max_length
    if row_tokens is not None and row_tokens > limit:
        raise DistillensError(
            f"--row_tokens {row_tokens:g}: expected at most {limit}, the recipe's "
            "datasets.train.max_length, since longer rows are cut or left out"
        )
    found = _from_data(recipe)
    if rows is None and row_tokens is None:
        return found
    tokens = found.tokens if row_tokens is None else row_tokens
    share = 1.0
    if found.tokens and found.supervised:
        share = found.supervised / found.tokens
    return Lengths(
        longest=found.longest,
        longest_supervised=found.longest_supervised,
        tokens=tokens,
        supervised=None if tokens is None else tokens * share,
        rows=found.rows if rows is None else rows,
        even=found.even,
        source=f"{found.source}; number and mean length as given",
    )


def _from_data(recipe: Recipe) -> Lengths:
    spec, tokenizer_name = recipe.datasets.train, recipe.models.tokenizer_name
    limit = spec.max_length
    missing = None
    if spec.streaming:
        missing = "the data are a stream"
    elif not os.path.exists(spec.path):
        missing = f"{spec.path} is not here" if not is_path(spec.path) else f"no {spec.path}"
    elif not os.path.isdir(tokenizer_name) or not os.path.isfile(
        os.path.join(tokenizer_name, "tokenizer_config.json")
    ):
        missing = f"the tokenizer {tokenizer_name} is not here"
    if missing is not None:
        source = f"every row is taken to be max_length tokens, all supervised: {missing}"
        return Lengths(limit, limit - 1, None, None, None, False, source)
    from distillens_plugin.data.examples import load_examples
    from distillens_plugin.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_name, revision=recipe.models.trained.revision)
    where = recipe.where("datasets.train")
    data = load_examples(spec, tokenizer, where=where, first_rows=_SAMPLED_ROWS)
    longest = max(data.lengths)
    supervised = max(
        sum(max(0, end - max(1, start)) for start, end in data.learnt(row)) for row in data.rows
    )
    count, sampled = len(data), data.counts.read >= _SAMPLED_ROWS
    return Lengths(
        longest=min(limit, -(-longest // _MULTIPLE) * _MULTIPLE),
        longest_supervised=supervised,
        tokens=data.counts.tokens / count,
        supervised=data.counts.supervised_tokens / count,
        rows=None if sampled else count,
        even=min(data.lengths) == longest,
        source=f"{spec.path}: {'the first ' if sampled else ''}{count:,} rows",
    )
