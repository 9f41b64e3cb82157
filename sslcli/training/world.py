"""The processes that train together; one where nobody started more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sslcli.errors import UsageError

T = TypeVar("T")


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


@contextlib.contextmanager
def joined(device_type: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, for a while; alone where it did not.

    On CUDA the device of the local rank is the current one meanwhile.

    Args:
        device_type: cpu (gloo) or cuda (NCCL).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device_type == "cuda"
    with torch.cuda.device(local) if cuda else contextlib.nullcontext():
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
        try:
            yield World(torch.distributed.get_rank(), size, f"cuda:{local}" if cuda else "cpu")
        finally:
            torch.distributed.destroy_process_group()
