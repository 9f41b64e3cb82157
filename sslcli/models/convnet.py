"""ConvNet of the paper: Caffe's `cifar10_full`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sslcli.models.initialise import he_normal_


class WithinChannelNorm(nn.Module):
    """Caffe's local response normalisation WITHIN_CHANNEL.

    y = x * (1 + alpha * mean of x^2 over a size x size window of the same channel)^-beta.
    Unlike the cross-channel kind it mixes no channels, so channels can be removed through it.
    """

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        energy = F.avg_pool2d(x * x, self.size, stride=1, padding=self.size // 2)
        return x * (1 + self.alpha * energy) ** -self.beta


class ConvNet(nn.Module):
    """Three 5x5 convolutions and one linear layer.

    Caffe rounds pooled sizes up, hence `ceil_mode`. The weights start from He's normal and not from
    Caffe's 1e-4 and 1e-2, which were chosen for inputs of 0..255.

    Args:
        classes: number of outputs.
        dropout: probability of dropping a feature before the linear layer; the paper's SSL nets use 0.5.

    Shape:
        - Input: (N, 3, 32, 32)
        - Output: (N, classes), logits
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.norm1 = WithinChannelNorm()
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.norm2 = WithinChannelNorm()
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(64 * 4 * 4, classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True))
        x = F.avg_pool2d(F.relu(self.conv2(self.norm1(x))), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(F.relu(self.conv3(self.norm2(x))), 3, 2, ceil_mode=True)
        return self.fc(self.dropout(x.flatten(1)))  # type: ignore[no-any-return]
