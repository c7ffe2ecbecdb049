"""The downscaler: bicubic interpolation plus a small residual network.

Two laws hold by construction, and the tests check them: adding a constant to a patch adds it to
the answer (the patch mean is taken out inside the graph), and scaling a patch by a positive
factor scales the answer (no layer has a bias, and ReLU is positively homogeneous; Mohan et al.,
"Robust and interpretable blind image denoising via bias-free convolutional neural networks",
ICLR 2020). So one network answers in whatever physical unit it is asked.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from downscaling.geometry import COARSE_SIZE, FACTOR, FINE_SIZE


def bicubic_matrix() -> Tensor:
    """Return [32, 8]: bicubic interpolation of eight points as one linear map.

    It is torch's own bicubic (a = -0.75, half-pixel centres, edges repeated) of the eight unit
    vectors; it is separable, so that ``M @ patch @ M.T`` is the two-dimensional one. As a matrix
    product it exports to ONNX without a Resize operator, whose variants differ between runtimes.
    """
    unit = torch.eye(COARSE_SIZE).reshape(COARSE_SIZE, 1, COARSE_SIZE, 1)
    columns = functional.interpolate(
        unit.expand(-1, -1, -1, COARSE_SIZE).contiguous(),
        size=(FINE_SIZE, FINE_SIZE),
        mode="bicubic",
        align_corners=False,
    )
    return columns[:, 0, :, FINE_SIZE // 2].T.contiguous()


class Downscaler(nn.Module):
    """Turns coarse patches [n, 8, 8] into fine patches [n, 32, 32], both in physical units.

    Args:
        width: Channels of the hidden layers.
        depth: Hidden 3 by 3 layers, at least 1.
        scale: What anomalies are divided by inside the graph; only conditions the arithmetic.
    """

    bicubic: Tensor
    scale: Tensor

    def __init__(self, *, width: int = 32, depth: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        self.width = width
        self.depth = depth
        self.register_buffer("bicubic", bicubic_matrix())
        self.register_buffer("scale", torch.tensor(float(scale)))
        channels = [1] + [width] * depth
        self.hidden = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(channels)
        )
        self.last = nn.Conv2d(width, FACTOR * FACTOR, 3, padding=1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, coarse: Tensor) -> Tensor:
        """Answer [n, 32, 32] for [n, 8, 8]; before any training this is the bicubic."""
        mean = coarse.mean(dim=(1, 2), keepdim=True)
        anomaly = (coarse - mean) / self.scale
        smooth = self.bicubic @ anomaly @ self.bicubic.T
        features = anomaly.unsqueeze(1)
        for index, layer in enumerate(self.hidden):
            step = torch.relu(layer(features))
            features = step if index == 0 else features + step
        residual = functional.pixel_shuffle(self.last(features), FACTOR).squeeze(1)
        return mean + self.scale * (smooth + residual)
