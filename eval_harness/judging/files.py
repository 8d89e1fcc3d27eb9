"""The files of a judgement.

<output_path>/verdicts_<fingerprint>.jsonl      what the judge said, one line each, as it comes
<output_path>/judge_<time>.json                 wins, losses, ties and biases of each task
<output_path>/judge_pairs_<task>_<time>.jsonl   one pair on each line, with both verdicts
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval_harness.judging.judgement import Judgement
from eval_harness.judging.pairs import Key
from eval_harness.judging.tally import Judged
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.files.jsonl import write_jsonl


def verdicts_file(output_path: Path, depends_on: dict[str, Any]) -> Path:
    """Another judge, request or prompt has another file."""
    return output_path / f"verdicts_{digest(depends_on)}.jsonl"


def write_judgement(
    judgement: Judgement,
    judged: Mapping[str, Sequence[Judged]],
    rows: Mapping[Key, dict[str, Any]],
    output_path: Path,
) -> Path:
    """Writes the pairs and then the judgement, whose path it returns.

    Args:
        judged: by task.
        rows: what the judge said, by the verdict's key.
    """
    moment = datetime.datetime.fromtimestamp(judgement.date, tz=datetime.UTC)
    suffix = moment.strftime("%Y-%m-%dT%H-%M-%S.%f")
    for task, items in judged.items():
        path = output_path / f"judge_pairs_{task}_{suffix}.jsonl"
        write_jsonl(path, (_pair_row(item, rows) for item in items))
    path = output_path / f"judge_{suffix}.json"
    write_json(path, judgement.to_json())
    return path


def _pair_row(item: Judged, rows: Mapping[Key, dict[str, Any]]) -> dict[str, Any]:
    pair = item.pair
    said = [rows.get(pair.key(order), {}).get("text") for order in (0, 1)]
    return {
        "row": pair.row_id,
        "seed": pair.seed,
        "outcome": item.outcome,
        "a_first": {"verdict": item.verdicts[0], "text": said[0]},
        "b_first": {"verdict": item.verdicts[1], "text": said[1]},
        "answer_a": pair.answers[0],
        "answer_b": pair.answers[1],
    }
