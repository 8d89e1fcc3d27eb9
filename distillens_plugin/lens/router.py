"""Mixtures of experts: whether a model computes an auxiliary loss on its routers."""

from typing import Any

from torch import nn

from distillens_plugin.lens.probe import forward_parameters, plain_model


def has_router(model: nn.Module) -> bool:
    """Whether the model returns an `aux_loss` when asked for its routers' logits."""
    return router_coefficient(model) is not None and "output_router_logits" in forward_parameters(
        plain_model(model)
    )


def router_coefficient(model: nn.Module) -> float | None:
    """The factor of the router loss in the model's own loss; None without routers."""
    config: Any = plain_model(model).config
    value: float | None = getattr(config.get_text_config(), "router_aux_loss_coef", None)
    return value
