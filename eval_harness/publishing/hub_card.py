"""The card of a data set of results: which files it has, and how to load them."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

CARD = "README.md"
# A card with this line is ours, and is written anew; of any other only the metadata are changed.
_OURS = "<!-- eval-harness run writes this card anew; delete this line to keep your changes -->"
_TIME = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d+"
_FILE = re.compile(rf"(?:results|samples_(?P<task>.+))_(?P<time>{_TIME})\.jsonl?")


@dataclass(frozen=True)
class Card:
    """README.md of the repository `name`; the other two are empty if there are none."""

    name: str
    leaderboard_url: str = ""
    point_of_contact: str = ""

    def text(self, files: list[str], *, before: str | None = None) -> str:
        """The card's text.

        Args:
            files: paths of all files in the repository.
            before: the card that is there.
        """
        from huggingface_hub import DatasetCard, DatasetCardData

        configs = _configs(files)
        if before is not None and _OURS not in before:
            card = DatasetCard(before, ignore_metadata_errors=True)
            card.data["configs"] = configs
            return str(card)
        data = DatasetCardData(configs=configs, pretty_name=self.name)
        return f"---\n{data.to_yaml()}\n---\n\n{self._body(configs)}"

    def _body(self, configs: list[dict[str, Any]]) -> str:
        lines = [f"# {self.name}", "", _OURS, ""]
        lines += ["Results of evaluations, and samples where they were uploaded.", ""]
        for words, value in (
            ("Leaderboard", self.leaderboard_url),
            ("Point of contact", self.point_of_contact),
        ):
            lines += [f"- **{words}:** {value}"] if value else []
        example = configs[0]["config_name"]
        lines += [
            "",
            "Each model and task is a configuration, and each evaluation a split of it, named by "
            "its time. `latest` is the last one:",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            f'load_dataset("{self.name}", name="{example}", split="latest")',
            "```",
            "",
        ]
        return "\n".join(lines)


def _configs(files: list[str]) -> list[dict[str, Any]]:
    """One for each model and task, and one for each model's results, as lm-eval names them."""
    found: dict[str, dict[str, str]] = {}
    for file in files:
        path = PurePosixPath(file)
        matched = _FILE.fullmatch(path.name)
        if matched is None or path.parent == PurePosixPath("."):
            continue
        task = re.sub(r"\W", "_", matched["task"] or "results")
        model = str(path.parent).replace("/", "__")
        split = re.sub(r"[^\w.]", "_", matched["time"])
        found.setdefault(f"{model}__{task}", {})[split] = file
    return [
        {
            "config_name": name,
            "data_files": [
                *({"split": split, "path": [file]} for split, file in sorted(splits.items())),
                {"split": "latest", "path": [splits[max(splits)]]},
            ],
        }
        for name, splits in sorted(found.items())
    ]
