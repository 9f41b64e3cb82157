"""The course of a training for TensorBoard: ``--tensorboard DIR``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcli.errors import InputError, OutputError

if TYPE_CHECKING:
    from sslcli.training.progress import Progress


class TensorBoardLog:
    """An observer that writes every number of a record as a scalar, by optimiser step.

    Args:
        folder: of the event files; made if it is not there.

    Raises:
        InputError: the package tensorboard is not installed.
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--tensorboard needs the package tensorboard", "pip install 'sslcli[tensorboard]'"
            ) from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {folder} ({error.strerror})", "name another"
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def __call__(self, progress: Progress) -> None:
        """Write one record."""
        for name, value in scalars(progress):
            self._writer.add_scalar(name, value, progress.step)
        if progress.kind == "end":
            self._writer.close()


def scalars(progress: Progress) -> Iterator[tuple[str, float]]:
    """The numbers of a record under TensorBoard's names; zero groups and what is left as fractions."""
    plain = {
        "train/loss": progress.loss,
        "train/penalty": progress.penalty,
        "train/lr": progress.lr,
        "train/samples per second": progress.images_per_s,
    }
    yield from ((name, value) for name, value in plain.items() if value is not None)
    for name, value in progress.metrics.items():
        yield f"validation/{name}", value
    for name, (zero, every) in progress.zero_groups.items():
        yield f"zero groups/{name}", zero / max(every, 1)
    for name, value in progress.left.items():
        yield f"left/{name}", value
    for name, value in progress.strengths.items():
        yield f"strength/{name.replace(':', '/')}", value
