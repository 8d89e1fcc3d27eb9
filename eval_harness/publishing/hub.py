"""The Hugging Face Hub: results and samples as data sets, in the repositories that lm-eval names.

<owner>/<name> if public, else <owner>/<name>-private, with <model>/results_<time>.json and
<model>/samples_<task>_<time>.jsonl as below --output_path, and a card that lists them.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.publishing.hub_card import CARD, Card
from eval_harness.shared.endpoint.hub_access import check_hub_access, first_line
from eval_harness.shared.near import near_names
from eval_harness.shared.shortened import shortened

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FLAG = "--hf_hub_log_args"
TEXTS = frozenset(
    {
        "details_repo_name",
        "hub_repo_name",
        "hub_results_org",
        "leaderboard_url",
        "point_of_contact",
        "results_repo_name",
        "token",
    }
)
_PUSHES = ("push_results_to_hub", "push_samples_to_hub")
_SWITCHES = frozenset({*_PUSHES, "public_repo", "gated"})
_DEFAULT_NAME = "lm-eval-results"


@dataclass(frozen=True)
class HubTarget:
    """Where files go; names are NAME or OWNER/NAME, None: not uploaded.

    Attributes:
        results_repo, samples_repo: may be the same.
        public: anybody may read them.
        gated: who wants the samples has to leave a name.
        leaderboard_url, point_of_contact: for the card.
        token: None: the one that huggingface_hub finds.
    """

    results_repo: str | None
    samples_repo: str | None
    public: bool = False
    gated: bool = False
    leaderboard_url: str = ""
    point_of_contact: str = ""
    token: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any], *, log_samples: bool) -> "HubTarget | None":
        """The target of --hf_hub_log_args, checked before anything is loaded.

        Args:
            given: parsed.
            log_samples: whether there will be samples files.
        Returns:
            None: both pushes are false.
        Raises:
            DistillensError: an unknown key, a wrong value, nothing to upload, or a Hub that would
                refuse the upload.
        """
        for key, value in given.items():
            _check(key, value)
        if not any(key in given for key in _PUSHES):
            raise DistillensError(
                f"{FLAG}: nothing would be uploaded; add push_results_to_hub=True, "
                "push_samples_to_hub=True, or both"
            )
        push_results, push_samples = (bool(given.get(key)) for key in _PUSHES)
        if push_samples and not log_samples:
            raise DistillensError(
                f"{FLAG} push_samples_to_hub: there are no samples with --no-log_samples; drop one "
                "of them"
            )
        if not push_results and not push_samples:
            return None
        target = cls(
            results_repo=_repository(given, "results_repo_name") if push_results else None,
            samples_repo=_repository(given, "details_repo_name") if push_samples else None,
            public=bool(given.get("public_repo")),
            gated=bool(given.get("gated")),
            leaderboard_url=given.get("leaderboard_url") or "",
            point_of_contact=given.get("point_of_contact") or "",
            token=given.get("token") or None,
        )
        for name in target.repositories():
            check_hub_access(
                name,
                kind="data set",
                what=FLAG,
                where=FLAG,
                otherwise=f"drop {FLAG}",
                token=target.token,
            )
        return target

    def repositories(self) -> list[str]:
        """The names, without repeats."""
        names = [name for name in (self.results_repo, self.samples_repo) if name is not None]
        return list(dict.fromkeys(names if self.public else [f"{name}-private" for name in names]))

    def push(self, path: Path) -> str:
        """Uploads one results file and the samples files beside it.

        Args:
            path: of the results file.
        Returns:
            A line to print.
        Raises:
            RunFailure: the Hub refuses; everything is on disk, and the same command uploads again.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=self.token)
        urls = []
        for name in self.repositories():
            files = self._files(name, path)
            try:
                urls.append(self._push(api, name, files))
            except Exception as error:  # whatever it is, the results must be found
                pattern = path.name.replace("results_", "*_").replace(".json", ".json*")
                by_hand = shlex.join(["hf", "upload", name, str(path.parent), path.parent.name])
                by_hand += "" if self.public else " --private"
                raise RunFailure(
                    f"{FLAG}: the upload to {name} failed ({first_line(error)}); the results are "
                    f"in {path}: the same command uploads again without generating, or by hand: "
                    f"{by_hand} --repo-type dataset --include {shlex.quote(pattern)}"
                ) from error
        return f"on the Hub: {', '.join(urls)}"

    def _files(self, name: str, path: Path) -> list[Path]:
        suffix = "" if self.public else "-private"
        files = [path] if name == f"{self.results_repo}{suffix}" else []
        if name == f"{self.samples_repo}{suffix}":
            time = path.stem.removeprefix("results_")
            files += sorted(path.parent.glob(f"samples_*_{time}.jsonl"))
        return files

    def _push(self, api: "HfApi", name: str, files: list[Path]) -> str:
        from huggingface_hub import CommitOperationAdd

        repo = api.create_repo(name, repo_type="dataset", private=not self.public, exist_ok=True)
        named = repo.repo_id
        if self.gated and self.samples_repo is not None:
            # Before there is anything in it that could be read.
            api.update_repo_settings(named, gated="auto", repo_type="dataset")
        added = {f"{file.parent.name}/{file.name}": file for file in files}
        there = api.list_repo_files(named, repo_type="dataset")
        text = None
        if CARD in there:
            text = Path(api.hf_hub_download(named, CARD, repo_type="dataset")).read_text("utf-8")
        card = Card(named, self.leaderboard_url, self.point_of_contact)
        changed = card.text(sorted({*there, *added}), before=text)
        api.create_commit(
            named,
            [
                *(CommitOperationAdd(where, file) for where, file in added.items()),
                CommitOperationAdd(CARD, changed.encode("utf-8")),
            ],
            commit_message=f"Add results of {files[0].parent.name}",
            repo_type="dataset",
        )
        return str(repo)


def _check(key: str, value: object) -> None:
    known = sorted(TEXTS | _SWITCHES)
    if key == "output_path":
        raise DistillensError(f"{FLAG} output_path: give --output_path instead")
    if key not in known:
        raise DistillensError(
            f"{FLAG} {shortened(key)}: not known{near_names(key, known)}, expected "
            f"{', '.join(known)}"
        )
    if key in TEXTS and not isinstance(value, str | None):
        kind, expected = type(value).__name__, "a text; put it in quotes"
    elif key in _SWITCHES and not isinstance(value, bool):
        kind, expected = type(value).__name__, "True or False"
    else:
        return
    raise DistillensError(f"{FLAG} {key} is {kind}, expected {expected}")


def _repository(given: Mapping[str, Any], key: str) -> str:
    """As lm-eval names them: both in one, unless they have names of their own."""
    name = given.get("hub_repo_name") or given.get(key) or given.get("details_repo_name")
    owner = given.get("hub_results_org")
    return f"{owner}/{name or _DEFAULT_NAME}" if owner else str(name or _DEFAULT_NAME)
