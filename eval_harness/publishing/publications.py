"""What the command line sends elsewhere: checked before a run, sent when its files are written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.publishing.hub import HubTarget
from eval_harness.publishing.wandb_logger import WandbLogger

if TYPE_CHECKING:
    from eval_harness.results.schema import Results


@dataclass(frozen=True)
class Publications:
    """Where the results of a run go beside --output_path; nothing of it is in its results."""

    wandb: WandbLogger | None = None
    hub: HubTarget | None = None

    @classmethod
    def of(
        cls,
        *,
        wandb_args: Mapping[str, Any],
        wandb_config_args: Mapping[str, Any],
        hf_hub_log_args: Mapping[str, Any],
        output_path: Path,
        log_samples: bool,
    ) -> "Publications":
        """Of the flags of these names, parsed; without them there is nothing to send.

        Raises:
            DistillensError: what would fail at the end, as far as that can be known.
        """
        if wandb_config_args and not wandb_args:
            raise DistillensError(
                "--wandb_config_args without --wandb_args logs nothing; add --wandb_args "
                "project=..., or drop it"
            )
        hub = HubTarget.of(hf_hub_log_args, log_samples=log_samples) if hf_hub_log_args else None
        wandb = None
        if wandb_args:
            wandb = WandbLogger.of(
                wandb_args,
                wandb_config_args,
                output_path=output_path,
                secret=hf_hub_log_args.get("token"),
            )
        return cls(wandb, hub)

    def send(self, results: "Results", path: Path) -> list[str]:
        """Sends one run.

        Args:
            results: with the samples that were written.
            path: of the results file.
        Returns:
            Lines to print.
        Raises:
            RunFailure: one of them failed; the results are kept.
        """
        hub, wandb = self.hub, self.wandb
        sent: list[Callable[[], str]] = []
        if hub is not None:
            sent.append(lambda: hub.push(path))
        if wandb is not None:
            sent.append(lambda: wandb.log(results, path))
        lines, failures = [], []
        for send in sent:  # one that fails does not keep the results from the other
            try:
                lines.append(send())
            except RunFailure as error:
                failures.append(error)
        if failures:
            raise RunFailure("; ".join(map(str, [*failures, *lines]))) from failures[0]
        return lines
