"""The stages' JSON files as one table of short lines."""

from typing import Any

HIDDEN = ("case", "ok", "error", "case_seconds", "values")


def table_of(stages: list[dict[str, Any]]) -> str:
    """A line for each case: whether it held, and its figures; stages in their order."""
    lines: list[str] = []
    if stages:
        facts = stages[0]["machine"]
        lines.append(", ".join(f"{key} {value}" for key, value in facts.items() if value))
    for stage in stages:
        right = sum(bool(case.get("ok")) for case in stage["cases"])
        late = sum("not_run" in case for case in stage["cases"])
        whole = "" if stage["complete"] else ", INCOMPLETE"
        count = f"{right} of {len(stage['cases'])} cases ok"
        count += f", {late} not run" if late else ""
        lines.append(f"-- {stage['stage']}: {count}, {stage['seconds']} s{whole}")
        # Right is right: only what is not needs its line. Times are all of interest.
        shown = stage["cases"]
        if stage["stage"] == "right":
            shown = [case for case in shown if not case.get("ok")]
        lines += [line_of(case) for case in shown]
    return "\n".join(lines)


def line_of(case: dict[str, Any]) -> str:
    """A case in one line."""
    if "not_run" in case:
        return f"{case['case']:<46} not run: {case['not_run']}"
    if "error" in case:
        return f"{case['case']:<46} NOT OK {case['error'][:140]}"
    figures = "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in case.items()
        if key not in HIDDEN
    )
    return f"{case['case']:<46} {'' if case.get('ok') else 'NOT OK '}{figures}"
