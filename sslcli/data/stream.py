"""Reading many batches in a row, ahead of their use where a split has worker processes."""

from __future__ import annotations

import contextlib
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sslcli.data.samples import SampleSplit
from sslcli.data.source import Split
from sslcli.errors import DataError, SslcliError
from sslcli.reference import load_files, loaded_files

Batch = tuple[Tensor, Tensor]

_DIED = "DataLoader worker"  # begins torch's message


def stream(split: Split, batches: Iterable[Tensor], *, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
    """The batches of ``split`` for each tensor of indices, in order.

    Gives exactly what ``split.batch(indices, seed=seed, epoch=epoch)`` gives; a split made with
    ``workers`` prepares coming batches in that many processes meanwhile.
    """
    if isinstance(split, SampleSplit) and split.workers > 0:
        return _worker_stream(split, batches, seed, epoch)
    return (split.batch(indices, seed=seed, epoch=epoch) for indices in batches)


class _Requests:
    """The split as a map from one batch of indices to the finished batch, for DataLoader's workers."""

    def __init__(self, split: SampleSplit, seed: int, epoch: int) -> None:
        self.split = split
        self.seed = seed
        self.epoch = epoch

    def __reduce__(self) -> tuple[Any, ...]:
        """For workers that are no forks: they run the user's files before they meet its classes."""
        return _received, (loaded_files(), pickle.dumps((self.split, self.seed, self.epoch)))

    def __getitem__(self, indices: Tensor) -> Batch | tuple[str, str | None]:
        try:
            return self.split.batch(indices, seed=self.seed, epoch=self.epoch)
        except SslcliError as error:  # as values, since a worker's exception loses its hint on the way
            return error.what, error.hint


def _received(files: list[str], content: bytes) -> _Requests:
    load_files(files)
    return _Requests(*pickle.loads(content))


def _worker_stream(split: SampleSplit, batches: Iterable[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
    # its own generator: the loader would draw its workers' base seed from the global one
    loader: DataLoader[Any] = DataLoader(
        _Requests(split, seed, epoch),  # type: ignore[arg-type]
        batch_size=None,
        sampler=batches,
        num_workers=split.workers,
        generator=torch.Generator(),
    )
    with _deaths_told():
        fetched = iter(loader)
    _leave_deaths_to_the_fetch()
    while True:
        with _deaths_told():
            made = next(fetched, None)
        if made is None:
            return
        if isinstance(made[0], str):
            raise DataError(made[0], made[1])
        yield made


@contextlib.contextmanager
def _deaths_told() -> Iterator[None]:
    """The death of a worker process becomes a sentence where its batches are fetched."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and _DIED not in str(error):
            raise
        raise DataError(
            "a process that read data died",
            "the system kills processes when memory is short: use fewer --workers, and run again to go on",
        ) from error


def _leave_deaths_to_the_fetch() -> None:
    """Let nothing be raised out of the signal that a worker died.

    Torch's handler of SIGCHLD raises a RuntimeError wherever the main thread is by then: in a writer or a
    model, who could take it for their own, or where nobody can catch it. The next fetch that waits for the
    dead worker finds out as well, within seconds.
    """
    inner = signal.getsignal(signal.SIGCHLD)
    ours = isinstance(inner, _Unraised)
    if ours or not callable(inner) or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGCHLD, _Unraised(inner))


class _Unraised:
    """A handler of SIGCHLD around torch's own."""

    def __init__(self, inner: Callable[[int, FrameType | None], Any]) -> None:
        self.inner = inner

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):
            self.inner(signum, frame)
