"""The built-in architectures by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sslcli.models.caffenet import CaffeNet
from sslcli.models.convnet import ConvNet
from sslcli.models.lenet import LeNet, Mlp
from sslcli.models.resnet import resnet20, resnet32, resnet44, resnet56


@dataclass(frozen=True)
class Architecture:
    """A factory, the shape of one input without the batch axis, and its number of classes."""

    factory: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    classes: int


ARCHITECTURES = {
    "lenet": Architecture(LeNet, (1, 28, 28), 10),
    "mlp": Architecture(Mlp, (1, 28, 28), 10),
    "convnet": Architecture(ConvNet, (3, 32, 32), 10),
    "resnet20": Architecture(resnet20, (3, 32, 32), 10),
    "resnet32": Architecture(resnet32, (3, 32, 32), 10),
    "resnet44": Architecture(resnet44, (3, 32, 32), 10),
    "resnet56": Architecture(resnet56, (3, 32, 32), 10),
    "caffenet": Architecture(CaffeNet, (3, 227, 227), 1000),
}
