"""The colours of all pages and figures, safe for colour-blind readers.

Sources: Okabe and Ito 2008 ("Color Universal Design"), darkened where white would swallow them;
Nuñez et al. 2018 (cividis), arXiv 1712.01662.
"""

# Lines and bars, in this order; each has 3:1 contrast at least on white and on near-black.
SERIES = ("#0072b2", "#d55e00", "#008f6b", "#b8579a", "#8a7300", "#4a8fbf", "#7a7a7a")
# The name of matplotlib's colour map: dark where values are low, light where they are high.
SEQUENTIAL = "cividis"
# Text and axes of figures; in an SVG it becomes the page's own colour.
INK = "#1c1f23"


def shade(share: float) -> tuple[str, str]:
    """A cell's colour and that of text on it, "#rrggbb" each.

    Args:
        share: 0 for the low end of the scale, 1 for the high end.
    """
    import matplotlib

    red, green, blue, _ = matplotlib.colormaps[SEQUENTIAL](min(1.0, max(0.0, share)))
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # WCAG's contrast with white is above that with black below this luminance.
    ink = "#ffffff" if luminance < 0.179 else "#000000"
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}", ink


def gradient(num_stops: int = 9) -> str:
    """The colour map as a CSS gradient from left to right, for the legend of a scale."""
    stops = (shade(stop / (num_stops - 1))[0] for stop in range(num_stops))
    return f"linear-gradient(to right, {', '.join(stops)})"
