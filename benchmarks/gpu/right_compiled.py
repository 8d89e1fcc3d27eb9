"""One divergence through torch.compile against float64: `right_compiled.py NAME DEVICE`.

Prints one line of JSON. A compiled pass that failed would run uncompiled with a warning, and one
that the compiler cut in pieces would be slow without one; here both count as wrong.
"""

import json
import sys
import warnings
from typing import Any

import torch
import torch._dynamo
from right_fused import Problem, difference, verdict

from distillens_plugin.divergences import make_divergence
from distillens_plugin.fused import CROSS_ENTROPY, Group, triton_segment


def main() -> int:
    name, device = sys.argv[1], torch.device(sys.argv[2])
    found: dict[str, Any] = {}
    triton_segment.ENABLED = False  # it would take the place of what is checked here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for dtype, more in ((torch.float32, {}), (torch.bfloat16, {"temperature": 2.0})):
            problem = Problem(device, dtype, rows=300, vocab=(1003, 1003))
            group = problem.group(make_divergence("jsd")) if name == "cross_entropy" else None
            if group is None:
                groups = [problem.group(make_divergence(name), **more)]
            else:
                labels = torch.arange(300, device=device)
                groups = [Group("ce", problem.hidden, CROSS_ENTROPY, labels=labels)]
            errors = difference(problem, groups, compile_blocks=True, chunk_rows=128)
            one = verdict(errors, dtype, name)
            found = {**one, "ok": one["ok"] and found.get("ok", True)}
    fallback = [str(w.message) for w in caught if "could not compile" in str(w.message)]
    breaks = [" ".join(reason.split()) for reason in torch._dynamo.utils.counters["graph_break"]]
    found["ok"] = found["ok"] and not fallback and not breaks
    if fallback or breaks:
        found["error"] = fallback[0] if fallback else f"compiled in pieces: {breaks[0]}"
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
