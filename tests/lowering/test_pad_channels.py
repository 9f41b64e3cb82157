from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sslcli.lowering import check, protos
from sslcli.lowering.from_torch import translate
from sslcli.lowering.pad_channels import pad_channels
from sslcli.lowering.select import lower


class Residual(nn.Module):
    """A stem of 13, a block whose inner convolution has 11, a depthwise layer, a gate, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 13, 3, padding=1)
        self.inner = nn.Conv2d(13, 11, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(11, 13, 3, padding=1)
        self.depthwise = nn.Conv2d(13, 13, 3, padding=1, groups=13)
        self.squeeze = nn.Conv2d(13, 6, 1)
        self.excite = nn.Conv2d(6, 13, 1)
        self.fc = nn.Linear(13 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.outer(self.inner(x).relu())
        x = self.depthwise(x).sigmoid()
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))


def filters(model) -> dict[str, int]:
    known = protos.constants(model.graph)
    return {node.name: known[node.input[1]].dims[0] for node in model.graph.node if node.op_type == "Conv"}


def exported(net: nn.Module, *shape: int):
    torch.manual_seed(0)
    return translate(net.eval(), (torch.randn(2, *shape),), 18)[0]


@pytest.mark.parametrize("block", [4, 8])
def test_all_that_share_channels_are_padded_together(block: int) -> None:
    given = exported(Residual(), 3, 8, 8)
    padded, added = pad_channels(given, block=block)
    assert {name: filters(padded)[name] for name in ("stem", "inner", "outer", "depthwise", "excite")} == {
        "stem": 16,
        "inner": 12 if block == 4 else 16,
        "outer": 16,
        "depthwise": 16,
        "excite": 16,
    }
    assert added["stem"] == added["outer"] == added["depthwise"] == added["excite"] == 3
    assert filters(padded)["squeeze"] == 8
    feeds = check.fresh_feeds(given, batch_size=3)
    assert check.worst_error(check.run(given, feeds), check.run(padded, feeds)) < 1e-6
    check.check_structure(padded)


def test_what_leaves_the_graph_or_would_grow_too_much_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3))
    given = exported(net, 3, 8, 8)
    assert pad_channels(given, block=4)[1] == {}  # 5 to 8 is more than half; 7 filters are the output
    assert pad_channels(given, block=1)[1] == {}


def test_a_shared_weight_stays() -> None:
    conv = nn.Conv2d(13, 13, 3, padding=1)
    given = exported(nn.Sequential(nn.Conv2d(3, 13, 1), conv, nn.ReLU(), conv, nn.Flatten()), 3, 6, 6)
    assert pad_channels(given, block=4)[1] == {}


def test_export_pads_where_that_is_faster_and_looks_for_no_zeros_of_its_own(monkeypatch) -> None:
    from sslcli.lowering import select
    from sslcli.lowering.timings import Timed

    asked = []

    def pretend(models, settings):
        asked.append(sorted(models))
        return {
            name: Timed(
                1.0, 2.0 if name == "pad-channels-4" else 1.0, 1.5 if name == "pad-channels-4" else 1.0, 3.0
            )
            for name in models
        }

    monkeypatch.setattr(select, "measure", pretend)
    given = exported(Residual(), 3, 8, 8)
    lowered = lower(given, cache=False)
    assert asked == [["dense", "pad-channels-16", "pad-channels-4", "pad-channels-8"]]
    assert {decision.op_type for decision in lowered.decisions} == {"channels"}
    found = {decision.layer: decision for decision in lowered.decisions}["inner"]
    assert (found.chosen, found.live) == ("pad-channels-4", 1.0)
    assert found.note.startswith("1 filters of zeros came")


class Partial(nn.Module):
    """A mean over one of two axes; the next layer mixes the other, which is twice as long as the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1)
        self.fc = nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean(2))


def test_what_only_looks_like_channels_stays() -> None:
    given = exported(Partial(), 3, 16, 14)
    padded, added = pad_channels(given, block=4)
    assert added == {}
    feeds = check.fresh_feeds(given, batch_size=1)
    assert check.worst_error(check.run(given, feeds), check.run(padded, feeds)) < 1e-6


def test_a_variant_that_computes_something_else_is_left_out(monkeypatch, caplog) -> None:
    from sslcli.lowering import select

    def wrong(model, *, block):
        padded, added = pad_channels(model, block=block)
        if block == 4:
            bias = protos.array(protos.constants(padded.graph)["fc.bias"])
            protos.set_constant(padded.graph, "fc.bias", bias + 1)
        return padded, added

    monkeypatch.setattr(select, "pad_channels", wrong)
    monkeypatch.setattr(logging.getLogger("sslcli"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="sslcli")
    lowered = lower(exported(Residual(), 3, 8, 8), cache=False)
    assert "pad-channels-4 is left out" in caplog.text
    assert "pad-channels-4" not in {decision.chosen for decision in lowered.decisions}


def test_the_choice_of_channels_is_kept_for_the_next_export(tmp_path, monkeypatch) -> None:
    from sslcli.lowering import select

    monkeypatch.setenv("SSLCLI_CACHE_DIR", str(tmp_path))
    given = exported(Residual(), 3, 8, 8)
    first = lower(given)
    monkeypatch.setattr(select, "measure", lambda models, settings: pytest.fail("measured again"))
    assert [d.chosen for d in lower(given).decisions] == [d.chosen for d in first.decisions]
