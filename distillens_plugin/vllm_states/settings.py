"""What the connector is told when vLLM starts, and what it says about the engine."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillens_plugin.vllm_states.exchange import Facts, digest

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# Keys of kv_connector_extra_config.
FOLDER, LAYERS = "states_folder", "states_layers"


@dataclass(frozen=True)
class Settings:
    """Where states go and of which layers.

    Attributes:
        folder: of the files.
        layers: states after that many blocks, ascending; 0 is the embeddings.
    """

    folder: Path
    layers: list[int]


def settings_of(config: "VllmConfig") -> Settings:
    """Reads them from vLLM's configuration.

    Raises:
        ValueError: they are missing or do not fit the model; vLLM prints it and does not start.
    """
    transfer = config.kv_transfer_config
    assert transfer is not None
    folder = transfer.get_from_extra_config(FOLDER, None)
    layers = transfer.get_from_extra_config(LAYERS, None)
    if not isinstance(folder, str) or not isinstance(layers, list):
        raise ValueError(f"kv_connector_extra_config: expected {FOLDER} and {LAYERS}")
    if config.parallel_config.pipeline_parallel_size != 1:
        raise ValueError("pipeline_parallel_size: states need 1; use tensor_parallel_size")
    last = config.model_config.hf_text_config.num_hidden_layers
    if layers != sorted(set(layers)) or not layers or layers[0] < 0 or layers[-1] > last:
        raise ValueError(
            f"{LAYERS}: found {layers}, expected ascending layers from 0 to {last}, the number of "
            "the model's blocks"
        )
    return Settings(Path(folder), layers)


def facts_of(config: "VllmConfig", engine: str) -> Facts:
    """What the engine says about itself.

    Args:
        engine: "vllm" or "vllm-hooks".
    """
    import vllm

    model, settings = config.model_config, settings_of(config)
    served = Path(model.model)
    return Facts(
        engine=engine,
        version=vllm.__version__,
        dtype=str(model.dtype).removeprefix("torch."),
        quantisation=str(model.quantization or "none"),
        kv_cache_dtype=str(config.cache_config.cache_dtype),
        hf_overrides=json.dumps(model.hf_overrides or {}, sort_keys=True, default=str),
        # A name on a hub is no folder: nothing there says which weights were read.
        model=digest(served) if (served / "config.json").exists() else "",
        layers=settings.layers,
        folder=str(settings.folder),
    )
