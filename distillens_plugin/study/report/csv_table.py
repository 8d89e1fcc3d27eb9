"""The study's numbers in one CSV, for people's own plots and tests."""

import csv
import io

from distillens_plugin.study.report.place import FIRST_COLUMNS
from distillens_plugin.study.report.results import Results
from distillens_plugin.study.report.table import Difference

_COLUMNS = (
    *FIRST_COLUMNS,
    *("mean", "ci_low", "ci_high", "seed_sd", "num_rows", "num_seeds"),
    *("reference", "difference", "difference_low", "difference_high"),
    *("seed_difference_low", "seed_difference_high", "p_value", "holm_p"),
    *("smallest_detectable", "verdict", "num_steps", "train_seconds", "peak_memory_bytes"),
)


def csv_table(results: Results) -> str:
    """A line for each budget, method, metric and reference; without a reference the last are empty.

    Scores are x 100, losses in nats.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for budget, table in results.tables.items():
        for name, cells in table.cells.items():
            cost = results.costs[budget][name]
            for metric, cell in cells.items():
                low, high = cell.interval or ("", "")
                line: dict[str, object] = {
                    "budget": budget,
                    "method": name,
                    "label": results.label(name, budget),
                    "task": metric.task,
                    "protocol": metric.protocol,
                    "metric": metric.name,
                    "mean": cell.mean,
                    "ci_low": low,
                    "ci_high": high,
                    "seed_sd": "" if cell.seed_deviation is None else cell.seed_deviation,
                    "num_rows": "" if cell.num_rows is None else cell.num_rows,
                    "num_seeds": len(cell.by_seed),
                    "num_steps": f"{cost.num_steps:g}",
                    "train_seconds": round(cost.train_seconds, 1),
                    "peak_memory_bytes": cost.peak_bytes,
                }
                found = [d for d in table.differences if (d.method, d.metric) == (name, metric)]
                writer.writerows([line | _difference_cells(d) for d in found] or [line])
    return text.getvalue()


def _difference_cells(difference: Difference) -> dict[str, object]:
    paired, (low, high) = difference.paired, difference.seed_interval or (None, None)
    return {
        "reference": difference.reference,
        "difference": paired.difference,
        "difference_low": paired.low,
        "difference_high": paired.high,
        "seed_difference_low": low,
        "seed_difference_high": high,
        "p_value": paired.p_value,
        "holm_p": difference.adjusted_p,
        "smallest_detectable": paired.smallest_detectable,
        "verdict": difference.verdict,
    }
