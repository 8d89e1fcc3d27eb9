"""What is wanted of a teacher inside vLLM, and how a server is started that gives it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class Wanted:
    """States of one teacher.

    Attributes:
        model: its folder, without an adapter.
        tokenizer: its folder; vLLM asks for one, though only token ids are sent.
        layers: ascending; k is after k blocks, 0 the first block's input.
        longest: most tokens of a row.
    """

    model: Path
    tokenizer: Path
    layers: list[int]
    longest: int

    def check(self) -> None:
        """Refuses what vLLM would refuse after minutes.

        Raises:
            DistillensError: no folder, an adapter, or layers that the model does not have.
        """
        from transformers import AutoConfig

        if not (self.model / "config.json").exists():
            raise DistillensError(f"{self.model}: found no config.json, expected a model folder")
        if (self.model / "adapter_config.json").exists():
            raise DistillensError(
                f"{self.model}: found an adapter; merge it into its model first, or use --model hf"
            )
        last = (
            AutoConfig.from_pretrained(self.model, trust_remote_code=False)
            .get_text_config()
            .num_hidden_layers
        )
        wrong = [k for k in self.layers if not 0 <= k <= last]
        if wrong:
            raise DistillensError(
                f"{self.model}: found layer {wrong[0]}, expected 0 (embeddings) to {last} "
                "(all blocks)"
            )

    def command(self, folder: Path, *, python: str = "python") -> list[str]:
        """Starts a server that gives these states."""
        command = [python, "-m", "distillens_plugin.vllm_states.serve", str(self.model)]
        command += ["--states-folder", str(folder)]
        command += ["--states-layers", ",".join(map(str, self.layers))]
        return [*command, "--tokenizer", str(self.tokenizer), "--generation-config", "vllm"]

    def shown_command(self, folder: Path) -> str:
        """The same, to be typed in a shell on the server's machine."""
        return shlex.join([*self.command(folder), "--max-model-len", str(self.longest)])
