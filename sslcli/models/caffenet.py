"""CaffeNet: AlexNet with its two groups, pooling before normalisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sslcli.models.initialise import he_normal_


class CaffeNet(nn.Module):
    """Five convolutions (666M multiply-accumulates) and three linear layers.

    Shape:
        - Input: (N, 3, 227, 227)
        - Output: (N, classes), logits
    """

    def __init__(self, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.norm1 = nn.LocalResponseNorm(5)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.norm2 = nn.LocalResponseNorm(5)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.dropout = nn.Dropout(dropout)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(F.max_pool2d(F.relu(self.conv1(x)), 3, 2))
        x = self.norm2(F.max_pool2d(F.relu(self.conv2(x)), 3, 2))
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2)
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)  # type: ignore[no-any-return]
