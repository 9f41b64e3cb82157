"""The processes that train together; one where nobody started more."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sslcli.errors import DeviceError, SslcliError, UsageError
from sslcli.reference import describe

T = TypeVar("T")


class PeerError(SslcliError):
    """Another process of this run has failed; ends with that one's exit code."""

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


@dataclass(frozen=True)
class World:
    """This process among those that share the work.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        device: where tensors that are exchanged must be.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; the same bits on each."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any process."""
        if self.size == 1:
            return flags
        counts = torch.tensor([float(flag) for flag in flags], device=self.device)
        return tuple(count > 0 for count in self.sum(counts).tolist())

    def share(self, value: T) -> T:
        """Process 0's value on every process (of which the others' is forgotten)."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, 0, device=torch.device(self.device))
        return box[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers (running statistics) of process 0."""
        if self.size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model, in a wrapper that averages gradients where there are several processes."""
        if self.size == 1:
            return model
        # static_graph: parameters that the loss does not reach (heads of another task) are no error
        return DistributedDataParallel(model, static_graph=True)

    def check_batch(self, batch_size: int) -> None:
        """Raise UsageError where a batch cannot be shared evenly."""
        if batch_size % self.size:
            raise UsageError(
                f"a batch of {batch_size} cannot be shared evenly by {self.size} processes",
                f"choose a --batch-size that is a multiple of {self.size}",
            )


ALONE = World()
_WORD = "failure"
_PATIENCE_S = 3.0
# What gloo and NCCL say where the other end is gone.
_LOST = re.compile(r"gloo|NCCL|[Cc]onnection|peer|socket", re.IGNORECASE)


@contextlib.contextmanager
def joined(device_type: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, for a while; alone where it did not.

    On CUDA the device of the local rank is the current one meanwhile.

    Args:
        device_type: cpu (gloo) or cuda (NCCL).

    Raises:
        DeviceError: the processes do not find each other.
        PeerError: another one has failed; with its sentence and exit code, where it left them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device_type == "cuda"
    with torch.cuda.device(local) if cuda else contextlib.nullcontext():
        store, rank = _meet("nccl" if cuda else "gloo")
        try:
            with _failures_shared(store, rank):
                yield World(rank, size, f"cuda:{local}" if cuda else "cpu")
        finally:
            torch.distributed.destroy_process_group()


def _meet(backend: str) -> tuple[Store, int]:
    try:
        store, rank, size = next(rendezvous("env://"))
        shared = PrefixStore("sslcli", store)
        torch.distributed.init_process_group(backend, store=shared, rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        raise DeviceError(
            f"the processes of this run do not find each other ({describe(error)})",
            "start them with torchrun; see `sslcli doctor --distributed`",
        ) from error
    return shared, rank


@contextlib.contextmanager
def _failures_shared(store: Store, rank: int) -> Iterator[None]:
    """Leave word of an own failure; tell that of another process where its going broke off an exchange."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, SslcliError) and _LOST.search(str(error)):
            raise _peer_error(store) from error
        _leave_word(store, rank, error)
        raise


def _leave_word(store: Store, rank: int, error: Exception) -> None:
    code, text = (error.exit_code, str(error)) if isinstance(error, SslcliError) else (1, describe(error))
    with contextlib.suppress(RuntimeError):  # whoever holds the store may be gone already
        store.set(_WORD, json.dumps([rank, code, text]))


def _peer_error(store: Store) -> PeerError:
    with contextlib.suppress(RuntimeError, ValueError):  # whoever holds the store may be gone too
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end and not store.check([_WORD]):
            time.sleep(0.1)
        if store.check([_WORD]):
            rank, code, sentence = json.loads(store.get(_WORD))
            return PeerError(f"process {rank} has failed: {sentence}", code)
    return PeerError(
        "another process of this run has died; run the same command again to go on from its last state", 1
    )
