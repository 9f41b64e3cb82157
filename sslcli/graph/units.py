"""Removable units: integers in a vectorised union-find, some of them pinned with a reason.

A unit is the smallest thing that pruning can remove: a filter with everything that is coupled to it.
Operations that need two tensors to keep the same elements unite their units; an operation that mixes along
an axis, or that nobody knows, pins units, and the reason is kept for ``inspect``.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Units:
    """Union-find over integers, all operations on whole arrays of them."""

    def __init__(self) -> None:
        self._parent = torch.zeros(1024, dtype=torch.int64)
        self._reason = torch.zeros(1024, dtype=torch.int64)  # by root; 0: not pinned
        self.count = 0
        self.reasons: list[str] = [""]
        self._reason_numbers: dict[str, int] = {"": 0}

    def fresh(self, count: int) -> Tensor:
        """``count`` new units, int64 (count,)."""
        start, self.count = self.count, self.count + count
        while self.count > len(self._parent):
            self._parent = torch.cat([self._parent, torch.zeros_like(self._parent)])
            self._reason = torch.cat([self._reason, torch.zeros_like(self._reason)])
        new = torch.arange(start, self.count)
        self._parent[start : self.count] = new
        return new

    def find(self, units: Tensor) -> Tensor:
        """The representatives of ``units``, same shape."""
        parent = self._parent[units]
        while True:
            above = self._parent[parent]
            if torch.equal(above, parent):
                break
            parent = above
        self._parent[units] = parent
        return parent

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Unite ``a`` and ``b`` element by element; shapes broadcast."""
        a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)])
        if pairs.shape[1] > 4096:
            pairs = torch.unique(pairs, dim=1)
        first, second = self.find(pairs[0]), self.find(pairs[1])
        touched = torch.cat([first, second])
        while True:
            different = first != second
            if not bool(different.any()):
                break
            low = torch.minimum(first, second)[different]
            high = torch.maximum(first, second)[different]
            self._parent.scatter_reduce_(0, high, low, "amin")
            first, second = self.find(first), self.find(second)
        self._reason.scatter_reduce_(0, self.find(touched), self._reason[touched], "amax")

    def pin(self, units: Tensor, reason: str) -> None:
        """Keep ``units`` whole; the first reason given for a unit is the one that is shown."""
        roots = self.find(units).reshape(-1)
        number = self._reason_numbers.get(reason)
        if number is None:
            number = self._reason_numbers[reason] = len(self.reasons)
            self.reasons.append(reason)
        free = roots[self._reason[roots] == 0]
        self._reason[free] = number

    def pinned(self, units: Tensor) -> Tensor:
        """Bool, same shape: which of ``units`` are pinned."""
        return self._reason[self.find(units)] != 0

    def why(self, units: Tensor) -> list[str]:
        """The distinct reasons for which some of ``units`` are pinned."""
        numbers = torch.unique(self._reason[self.find(units)])
        return [self.reasons[int(n)] for n in numbers if int(n)]

    def roots(self) -> Tensor:
        """The representative of every unit, int64 (count,)."""
        return self.find(torch.arange(self.count))

    def all_pinned(self) -> Tensor:
        """Bool (count,): pinned, for every unit."""
        return self.pinned(torch.arange(self.count))
