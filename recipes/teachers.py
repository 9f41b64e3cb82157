"""The public ResNets for CIFAR-10 as one teacher, which is better than any of them: their mean output.

sslcli prune arch:recipes/teachers.py:resnets --input-shape 3,32,32 -o teachers.pt2

takes nothing away and makes of them a model that ``--teacher`` takes. The files of their weights lie in the
folder of the command, named after their architectures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import sslcli


class Mean(nn.Module):
    """Networks side by side: (samples, channels, ...) -> the mean of their outputs."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([network(inputs) for network in self.networks]).mean(dim=0)


def resnets(weights: str = "resnet20.th,resnet44.th,resnet56.th") -> nn.Module:
    """The mean of public ResNets.

    Args:
        weights: files of weights with commas between; the name of each, up to the dot, is its architecture.
    """
    networks = [sslcli.load(name, arch=Path(name).stem).model for name in weights.split(",")]
    for network in networks:
        fold_norms(network.eval())
    return Mean(networks)


def fold_norms(network: nn.Module) -> None:
    """Fold each batch norm ``bnN`` into its convolution ``convN``: the same outputs, in 0.7 of the time."""
    for module in network.modules():
        for name, convolution in list(module.named_children()):
            norm = getattr(module, name.replace("conv", "bn"), None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, name.replace("conv", "bn"), nn.Identity())
