"""The top tokens of each layer at each position, as the table that readers of logit lenses know."""

from distillens_plugin.lens_maps.tokens import TokenTable
from eval_harness import printable
from eval_harness.shared.pages.cells import Cell, CellGrid
from eval_harness.shared.pages.palette import gradient, shade

_MOST_IN_CELL, _MOST_IN_LINE = 14, 60
# What a reader could not see in a cell.
_VISIBLE = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥", " ": "·"})


def shown_token(text: str, most: int = _MOST_IN_CELL) -> str:
    """A token for people: white space visible, control characters escaped, at most so long."""
    told = printable(text.translate(_VISIBLE))
    return told if len(told) <= most else f"{told[: most - 1]}…"


def token_grid(table: TokenTable, *, name: str, title: str) -> CellGrid:
    """A row for each layer, the last on top; a column for each position.

    Args:
        name: unique on the page.
    """
    cells = [
        [_cell(table, layer, place) for place in range(len(table.positions))]
        for layer in reversed(range(len(table.layers)))
    ]
    return CellGrid(
        name,
        title,
        "Read a column from the bottom to the top: what each layer takes to come next and, above "
        "it, what does come next (· is a space, ↵ a new line). Lighter is surer; a ring: it is "
        "right.",
        [str(layer) for layer in reversed(table.layers)],
        [shown_token(token) for token in table.next_tokens],
        "layer",
        "what comes next in the text",
        cells,
        (gradient(), "probability 0", "1"),
        is_text=True,
    )


def _cell(table: TokenTable, layer: int, place: int) -> Cell:
    tokens, probabilities = table.top_tokens[layer][place], table.top_probabilities[layer, place]
    top = ", ".join(
        f"{shown_token(token, _MOST_IN_LINE)} {probability:.3f}"
        for token, probability in zip(tokens, probabilities, strict=True)
    )
    rank, after = int(table.true_rank[layer, place]), table.tokens[place]
    says = (
        f"layer {table.layers[layer]}, position {table.positions[place]}, after "
        f"{shown_token(after, _MOST_IN_LINE)}: {top}. Next is "
        f"{shown_token(table.next_tokens[place], _MOST_IN_LINE)}: rank {rank:,}, probability "
        f"{table.true_probability[layer, place]:.3f}. Entropy {table.entropy[layer, place]:.2f} "
        "nats"
    )
    colours = shade(float(probabilities[0]))
    return Cell(shown_token(tokens[0]), says, *colours, is_marked=rank == 1)
