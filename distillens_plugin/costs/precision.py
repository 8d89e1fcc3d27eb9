"""The types that a training step computes in, and the device whose kernels it runs on."""

from dataclasses import dataclass
from typing import Literal

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Precision:
    """Of one model.

    Attributes:
        weights: bytes of a stored weight.
        autocast: whether float32 weights are used in half precision (`mixed_precision`).
    """

    weights: int
    autocast: bool
    device: Device

    @property
    def stream(self) -> int:
        """Bytes of a number of the residual stream: autocast leaves sums in float32."""
        return self.weights

    @property
    def products(self) -> int:
        """Bytes of a number that a matrix product reads or gives."""
        return 2 if self.autocast else self.weights

    @property
    def casts(self) -> bool:
        """Whether products read copies of weights and inputs, in another type."""
        return self.autocast and self.weights == 4


def precision(dtype: str, mixed_precision: str, device: Device) -> Precision:
    """Of a model with weights of this dtype in a run with this `mixed_precision`."""
    return Precision(BYTES[dtype], mixed_precision != "no", device)
