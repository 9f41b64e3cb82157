"""Splits whose samples are made one at a time: image files and the user's own data sets."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from sslcli.data.randomness import key, mix
from sslcli.data.source import Normalization
from sslcli.errors import DataError

Sample = tuple[object, object]


class Samples(Protocol):
    """Makes sample ``index`` as (input, target); its randomness is a function of the arguments."""

    def __len__(self) -> int: ...

    def sample(self, index: int, *, seed: int, epoch: int) -> Sample:
        """Sample ``index`` as (input, target)."""
        ...


class SampleSplit:
    """A split that makes its samples one by one and stacks them.

    Args:
        samples: makes one sample.
        name: how errors call the split.
        normalization: applied to the stacked inputs; None where the samples come normalised.
        classes: number of classes that integer targets must stay below; None where unknown.
        collate: stacks a list of samples; torch's default where None.
        workers: processes that :func:`sslcli.data.stream` may use.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        name: str,
        normalization: Normalization | None = None,
        classes: int | None = None,
        collate: Callable[[list[Sample]], tuple[Tensor, Tensor]] | None = None,
        workers: int = 0,
    ) -> None:
        self.samples = samples
        self.name = name
        self.normalization = normalization
        self.classes = classes
        self.collate = collate
        self.workers = workers

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Make and stack the samples ``indices``; DataError where one is broken."""
        numbers = [int(index) for index in indices]
        made = [self.samples.sample(number, seed=seed, epoch=epoch) for number in numbers]
        inputs, targets = self._stack(made, numbers)
        if isinstance(inputs, Tensor):
            inputs = self._finish(inputs, numbers)
        if isinstance(targets, Tensor):
            check_targets(targets, self.classes, self.name, numbers)
        return inputs, targets

    def _stack(self, made: list[Sample], numbers: list[int]) -> tuple[Tensor, Tensor]:
        try:
            stacked = default_collate(made) if self.collate is None else self.collate(made)
            inputs, targets = stacked
        except (TypeError, ValueError, RuntimeError) as error:
            shapes = sorted({str(tuple(getattr(sample[0], "shape", ()))) for sample in made})
            raise DataError(
                f"samples {numbers[:3]}... of {self.name} do not stack; their inputs have shapes "
                f"{', '.join(shapes)}",
                "make every sample the same shape, or give the data set a collate_fn",
            ) from error
        return inputs, targets

    def _finish(self, inputs: Tensor, numbers: list[int]) -> Tensor:
        if inputs.dtype == torch.uint8:
            inputs = inputs.float() / 255
        if not inputs.is_floating_point():
            return inputs  # token numbers
        inputs = inputs.float()
        finite = torch.isfinite(inputs.flatten(1)).all(1)
        if not bool(finite.all()):
            bad = numbers[int(torch.nonzero(~finite)[0])]
            raise DataError(
                f"sample {bad} of {self.name} holds NaN or infinite values", "repair or drop the sample"
            )
        if self.normalization is None:
            return inputs
        if inputs.dim() > 1:
            self.normalization.check_channels(inputs.shape[1], self.name)
        mean, std = self.normalization.columns()
        return (inputs - mean) / std


def check_targets(targets: Tensor, classes: int | None, name: str, numbers: Sequence[int] = ()) -> None:
    """Raise DataError if integer targets are no class numbers.

    Args:
        targets: targets of a batch or of a whole split; floating ones are not looked at.
        classes: number of classes, None where unknown (then only negative numbers other than -100,
            which losses ignore, are refused).
        name: how the error calls the data.
        numbers: sample numbers, to name the first bad one.
    """
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.numel() == 0:
        return
    bad = (targets < 0) & (targets != -100)
    if classes is not None:
        bad |= targets >= classes
    if bool(bad.any()):
        place = int(torch.nonzero(bad)[0][0])
        number = numbers[place] if numbers else place
        allowed = f"0 to {classes - 1}" if classes is not None else "0 and above"
        raise DataError(
            f"sample {number} of {name} has the label {int(targets[bad][0])}",
            f"labels must be {allowed}",
        )


@contextlib.contextmanager
def sample_randomness(index: int, seed: int, epoch: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python for one sample, then put them back.

    The user's own transforms draw from these; seeding them by (seed, epoch, index) is what makes their
    samples the same in every worker and after a resume.
    """
    word = mix((key(seed, epoch, 0) + index) % (1 << 64))
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(word >> 1)
    np.random.seed(word & 0xFFFFFFFF)
    random.seed(word)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
