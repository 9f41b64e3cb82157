"""The paper's comparison: a convolution with the same sparsity but no structure, as a CSR product.

The input is lowered to columns (im2col), then one CSR matrix a group is multiplied with the columns of one
image after the other: by MKL on the CPU, by cuSPARSE on CUDA, both through torch. That is the fastest of
the forms tried (int32 indices, results in place, image by image rather than the batch side by side).
Bias is left out, as in the paper.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from sslcli.bench.columns import Columns, ConvGeometry
from sslcli.bench.graphs import ShapedGraph
from sslcli.bench.inputs import Array
from sslcli.errors import DeviceError
from sslcli.options.common import Provider


class CsrConvolution:
    """A convolution whose weight is one CSR matrix a group; every buffer is allocated once.

    Shape:
        weight: (filters, channels / groups, *kernel); image: (batch, channels, *space);
        result: (batch, filters, *out).
    """

    def __init__(
        self, weight: Array, image: Array, geometry: ConvGeometry, provider: Provider = "cpu"
    ) -> None:
        self._provider = provider
        device = torch.device(provider)
        groups, filters = geometry.groups, geometry.weight[0]
        self._image = torch.from_numpy(image).to(device)
        self._columns = Columns(geometry, device)
        self._shape = (geometry.image[0], filters, *geometry.out)
        self._results = torch.zeros(self._shape, device=device).view(
            geometry.image[0], groups, filters // groups, math.prod(geometry.out)
        )
        rows = weight.reshape(groups, filters // groups, math.prod(geometry.weight[1:]))
        self._matrices = [_csr(part, device) for part in rows]

    def run(self) -> None:
        """Lower the image and multiply."""
        self._columns.lower(self._image)
        self.multiply()

    def multiply(self) -> None:
        """Multiply with the columns that ``run`` wrote: all that the paper timed."""
        for columns, results in zip(self._columns.parts, self._results, strict=True):
            for matrix, part, result in zip(self._matrices, columns, results, strict=True):
                torch.mm(matrix, part, out=result)
        if self._provider == "cuda":
            torch.cuda.synchronize()

    def result(self) -> Array:
        """The result of the last product."""
        values: Array = self._results.view(self._shape).cpu().numpy()
        return values


def live_weights(graph: ShapedGraph, nodes: Sequence[onnx.NodeProto]) -> int:
    """Non-zero weights of convolutions and products among ``nodes``.

    Kernels of zeros and ones only choose or shift what others multiply, and do not count.
    """
    total = 0
    for node in nodes:
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            continue
        for name in node.input[:2]:
            if name in graph.constants:
                values = numpy_helper.to_array(graph.constants[name], str(graph.folder))
                if not np.isin(values, (0, 1)).all():
                    total += int(np.count_nonzero(values))
    return total


def random_weight(shape: Sequence[int], live: int, groups: int, seed: int) -> Array:
    """Normal values at ``live`` random places, spread evenly over groups, zeros elsewhere."""
    generator = np.random.default_rng(seed)
    weight = np.zeros((groups, math.prod(shape) // groups), np.float32)
    for group, row in enumerate(weight):
        count = min(row.size, (live + group) // groups)
        row[generator.choice(row.size, count, replace=False)] = generator.standard_normal(count)
    return weight.reshape(shape)


def require_torch_device(provider: Provider) -> None:
    """Raise DeviceError if torch cannot run the CSR product on ``provider``."""
    if provider == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"--unstructured on CUDA needs cuSPARSE through torch, and torch {torch.__version__} has no CUDA",
            "install a CUDA build of torch, or leave out --unstructured",
        )


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set torch's intra-op threads (OpenMP's and MKL's too), and put them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _csr(part: Array, device: torch.device) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch calls its CSR tensors a beta feature once a process; MKL and cuSPARSE read nothing else.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        dense = torch.from_numpy(np.ascontiguousarray(part)).to_sparse_csr()
        rows, columns = dense.crow_indices().int(), dense.col_indices().int()
        return torch.sparse_csr_tensor(
            rows, columns, dense.values(), dense.shape, device=device, check_invariants=True
        )
