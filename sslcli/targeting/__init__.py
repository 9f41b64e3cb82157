"""Training as users mean it: structures and targets in, a trained copy of the model out."""

from sslcli.targeting.result import TrainResult
from sslcli.targeting.target import TargetMissedError
from sslcli.targeting.train import check_structures, regularize, train

__all__ = ["TargetMissedError", "TrainResult", "check_structures", "regularize", "train"]
