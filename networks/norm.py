"""Standardises numbers with the mean and variance of everything learned so far."""

# B examples, D numbers

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor, nn

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

CLAMP: Final = 8.0  # standard deviations: what lies further out is an outlier or an error


class RunningNorm(nn.Module):
    """``x → clamp((x − mean) / deviation, ±8)``, where a missing (not finite) number gives 0.

    `update` merges a batch's moments into the running ones (Chan, Golub, LeVeque 1979), in float64
    and for each number by its own count, for numbers may be missing. The count is capped, so that
    the mean goes on following the stream. A number that has not varied yet gives 0.
    """

    def __init__(self, width: int, *, cap: float = 1e6) -> None:
        """Standardise ``width`` numbers; a batch of n weighs at least n / (``cap`` + n)."""
        super().__init__()
        self.cap = cap
        self.count_D: Tensor
        self.mean_D: Tensor
        self.variance_D: Tensor
        self.register_buffer("count_D", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("mean_D", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("variance_D", torch.zeros(width, dtype=torch.float64))

    def forward(self, numbers_BD: Tensor) -> Tensor:
        """Return the standardised numbers, float32 (B, D), all finite."""
        varies_D = self.variance_D > 0
        scale_D = torch.where(varies_D, self.variance_D.where(varies_D, 1.0).rsqrt(), 0.0)
        x_BD = (numbers_BD - self.mean_D.float()).mul_(scale_D.float())
        return x_BD.nan_to_num_(0.0, CLAMP, -CLAMP).clamp_(-CLAMP, CLAMP)

    def update(self, numbers_BD: Tensor) -> None:
        """Take a batch (B, D) into the mean and variance."""
        _merge(
            numbers_BD.numpy(),
            self.count_D.numpy(),
            self.mean_D.numpy(),
            self.variance_D.numpy(),
            self.cap,
        )


@njit(
    "void(float32[:,::1], float64[::1], float64[::1], float64[::1], float64)",
    cache=True,
    nogil=True,
)
def _merge(x: F32, count: F64, mean: F64, variance: F64, cap: float) -> None:
    rows, width = x.shape
    n = np.zeros(width)
    total = np.zeros(width)
    for b in range(rows):
        for d in range(width):
            finite = np.abs(x[b, d]) < np.inf
            n[d] += 1.0 if finite else 0.0
            total[d] += x[b, d] if finite else 0.0
    centre = total / np.maximum(n, 1.0)
    squares = np.zeros(width)
    for b in range(rows):
        for d in range(width):
            off = x[b, d] - centre[d] if np.abs(x[b, d]) < np.inf else 0.0
            squares[d] += off * off
    for d in range(width):
        both = count[d] + n[d]
        if n[d] > 0:
            apart = centre[d] - mean[d]
            between = apart * apart * count[d] * n[d] / both
            variance[d] = (count[d] * variance[d] + squares[d] + between) / both
            mean[d] += apart * n[d] / both
            count[d] = min(both, cap)
