"""Do the processes of a distributed run find each other and agree on a sum?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import torch

from sslcli.errors import DeviceError
from sslcli.training.world import joined

_SECONDS = 120
_COUNT = 2


def rehearse() -> str:
    """Exchange a sum among the processes that ``torchrun`` started, else between two of our own.

    Returns:
        What was found, as a sentence.

    Raises:
        DeviceError: they do not find each other, or the sum is wrong.
    """
    return _sum() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else _two()


def _sum() -> str:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    with joined(kind) as world:
        total = int(world.sum(torch.full((), world.rank + 1, device=world.device)))
        nodes = world.size // int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    expected = world.size * (world.size + 1) // 2
    if total != expected:
        raise DeviceError(
            f"the sum over {world.size} processes is {total}, not {expected}",
            "look whether all nodes run the same versions of torch (`sslcli doctor` says which)",
        )
    backend = "NCCL" if kind == "cuda" else "gloo"
    return f"{world.size} processes on {nodes} node{'s' * (nodes > 1)} agree, by {backend}"


def _two() -> str:
    """Two processes of our own on this machine, by gloo, as ``torchrun`` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(_COUNT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", "from sslcli.training.rehearsal import _sum; print(_sum())"]
    processes = [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                **common,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(_COUNT),
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(_COUNT)
    ]
    try:
        said = [process.communicate(timeout=_SECONDS) for process in processes]
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"two processes on this machine did not find each other in {_SECONDS} s",
            "look at firewalls and GLOO_SOCKET_IFNAME",
        ) from error
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, said, strict=True):
        if process.returncode:
            last = err.strip().splitlines()[-1:] or ["no message"]
            raise DeviceError(
                f"two processes on this machine do not work together ({last[0][:200]})",
                "look at firewalls and GLOO_SOCKET_IFNAME",
            )
    return said[0][0].strip()
