"""Names that stand without a colon: the built-in architectures and data sets, told without loading torch."""

from __future__ import annotations

ARCHITECTURES = ("lenet", "mlp", "convnet", "resnet20", "resnet32", "resnet44", "resnet56", "caffenet")
DATA_SETS = ("mnist", "fashion-mnist", "cifar10", "mnist-5k")
