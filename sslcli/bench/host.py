"""What a timing depends on beside the models: the machine and the versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from sslcli.options.common import Provider

_GOVERNOR = Path("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Host:
    """The machine a comparison ran on.

    Attributes:
        machine: instruction set, as ``uname -m`` says it.
        cpu_model: name of the processor.
        cpus: logical processors of the machine.
        affinity: those that this process may use.
        governor: frequency governor of the first of them, None where it cannot be read.
        gpu: name and driver of the first GPU, None on comparisons without CUDA.
        system: operating system and its release.
        versions: Python and the libraries that ran.
    """

    machine: str
    cpu_model: str
    cpus: int
    affinity: tuple[int, ...]
    governor: str | None
    gpu: str | None
    system: str
    versions: dict[str, str]


def this_host(providers: Sequence[Provider]) -> Host:
    """Describe this machine as seen by this process."""
    affinity = tuple(sorted(os.sched_getaffinity(0)))
    return Host(
        machine=platform.machine(),
        cpu_model=_cpu_model(),
        cpus=os.cpu_count() or len(affinity),
        affinity=affinity,
        governor=_governor(affinity[0]),
        gpu=_gpu() if "cuda" in providers else None,
        system=f"{platform.system()} {platform.release()}",
        versions={
            "python": platform.python_version(),
            "onnxruntime": ort.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    )


@dataclass(frozen=True)
class Load:
    """CPU seconds used so far: by all processes of the machine, and by this one; and the wall clock."""

    machine_s: float
    own_s: float
    wall_s: float


def read_load() -> Load | None:
    """The load so far; None where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except (OSError, IndexError):
        return None
    user, nice, system, _idle, _waiting, irq, soft_irq = (int(field) for field in fields[:7])
    ticks = user + nice + system + irq + soft_irq
    return Load(ticks / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter())


def others_load(before: Load | None, after: Load | None, cpus: int) -> float | None:
    """Share of the processors' time between two readings that went to other processes."""
    if before is None or after is None:
        return None
    others_s = (after.machine_s - before.machine_s) - (after.own_s - before.own_s)
    return max(0.0, others_s) / (cpus * (after.wall_s - before.wall_s))


def hardware_differences(one: Host, other: Host) -> list[str]:
    """What makes timings of two hosts incomparable, as ``field: one or other``; versions do not count."""
    fields = ("machine", "cpu_model", "cpus", "gpu")
    differing = [
        f"{field}: {getattr(one, field)} or {getattr(other, field)}"
        for field in fields
        if getattr(one, field) != getattr(other, field)
    ]
    if len(one.affinity) != len(other.affinity):
        differing.append(f"usable processors: {len(one.affinity)} or {len(other.affinity)}")
    return differing


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _governor(cpu: int) -> str | None:
    try:
        return Path(str(_GOVERNOR).format(cpu=cpu)).read_text().strip()
    except OSError:
        return None


def _gpu() -> str | None:
    """What ``nvidia-smi`` says of the first GPU; ONNX Runtime itself does not name it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    answer = subprocess.run(
        [program, "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = answer.stdout.splitlines()
    return lines[0].strip() if answer.returncode == 0 and lines else None
