"""The network as a graph: its parts in order, what joins them, where its lines run."""

import pytest
import torch
from torch import nn

from sslcli.graph.trace import trace
from sslcli.report.network import Part, drawing, parts_of


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4 * 64, 2)

    def forward(self, x):
        y = self.norm(self.first(x)).relu()
        y = torch.cat([y + self.branch(y).relu(), x], dim=1)
        return self.last(y[:, :4].flatten(1))


PARTS = [
    Part("input, 1 x 8 x 8", ()),
    Part("first", (0,), "first", 4),
    Part("branch", (1,), "branch", 4),
    Part("+", (1, 2)),
    Part("concatenate", (3, 0)),
    Part("last", (4,), "last", 2),
    Part("output", (5,)),
]
BEFORE = [
    {"name": name, "filters": filters, "macs": macs}
    for name, filters, macs in (("first", 4, 2304), ("branch", 4, 9216), ("last", 2, 512))
]


def test_parts_are_the_layers_and_what_joins_values():
    assert parts_of(trace(Residual().eval(), (torch.zeros(2, 1, 8, 8),))) == PARTS


def test_a_box_says_what_is_left_of_its_layer():
    after = [
        {"name": "first", "filters": 3, "macs_packed": 576},
        {"name": "last", "filters": 2, "macs_packed": 512},
    ]
    boxes = {box.name: box for box in drawing(PARTS, BEFORE, after).boxes}
    assert boxes["first"].words == "3 of 4 filters, 25 % of 2304 MACs"
    assert boxes["first"].share == 0.25
    assert (boxes["branch"].words, boxes["branch"].gone) == ("gone", True)
    assert boxes["last"].words == "2 filters, 100 % of 512 MACs"
    assert boxes["+"].share is None


def test_every_connection_is_a_step_or_an_arc():
    drawn = drawing(PARTS, BEFORE, [])
    edges = sum(len(part.inputs) for part in PARTS)
    assert len(drawn.steps) + len(drawn.arcs) == edges
    assert len(drawn.arcs) == 2  # the skip connection, and the input that is concatenated


@pytest.mark.parametrize("ends", [[(0, 2), (2, 4)], [(0, 5), (1, 3)], [(0, 3), (1, 4), (2, 5)]])
def test_arcs_that_overlap_run_in_lanes_of_their_own(ends):
    inputs = {bottom: top for top, bottom in ends}
    parts = [Part(str(number), (inputs[number],) if number in inputs else ()) for number in range(6)]
    arcs = drawing(parts, [], []).arcs
    assert len(arcs) == len(ends)
    for one in arcs:
        for other in arcs:
            overlap = one[1] < other[2] and other[1] < one[2]
            assert one is other or not overlap or one[0] != other[0]
