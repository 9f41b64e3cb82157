from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from onnxscript import opset18
from onnxscript.function_libs.torch_lib import registration
from torch import nn

from sslcli.lowering import export_onnx, translations

NET, EXAMPLE = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (torch.zeros(1, 3),)


def test_translations_are_read_at_the_first_export_alone(monkeypatch):
    owner = translations._owner()
    read, calls = owner.get_torchlib_ops, []

    def counted():
        calls.append(True)
        return read()

    monkeypatch.setattr(owner, "get_torchlib_ops", counted)
    first, second = export_onnx(NET, EXAMPLE), export_onnx(NET, EXAMPLE)
    assert calls == [True]
    assert [node.op_type for node in first.graph.node] == [node.op_type for node in second.graph.node]
    assert owner.get_torchlib_ops is counted


def test_the_exporter_of_others_is_left_as_it_was():
    owner = translations._owner()
    before, own = owner.get_torchlib_ops, dict(vars(owner))

    def fail():
        with translations.read_once():
            inside = owner.get_torchlib_ops
            assert inside is not before
            with translations.read_once():
                assert owner.get_torchlib_ops is inside
            assert owner.get_torchlib_ops is inside
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert owner.get_torchlib_ops is before
    assert dict(vars(owner)) == own


class Twice(nn.Module):
    def forward(self, x):
        return torch.ops.sslcli_tests.twice(x)


@pytest.fixture
def operator():
    """A translation that a user adds to onnxscript's, and the operator that it is of."""

    @torch.library.custom_op("sslcli_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    def translated(x):
        return opset18.Add(x, x)

    yield lambda: registration.torch_op("sslcli_tests::twice", trace_only=True)(translated)
    registration.default_registry._registry.pop("sslcli_tests::twice", None)


def test_what_is_registered_between_two_exports_is_there_in_the_second(operator):
    export_onnx(NET, EXAMPLE)
    operator()
    assert [node.op_type for node in export_onnx(Twice(), EXAMPLE).graph.node] == ["Add"]


def test_exports_side_by_side_leave_the_exporter_as_it_was():
    owner = translations._owner()
    own, seen = dict(vars(owner)), []
    inside, go_on = threading.Event(), threading.Event()

    def longer():
        with translations.read_once():
            inside.set()
            go_on.wait(10)
            seen.append(owner.get_torchlib_ops)

    thread = threading.Thread(target=longer)
    thread.start()
    inside.wait(10)
    with translations.read_once():
        shared = owner.get_torchlib_ops
    go_on.set()
    thread.join()
    assert seen == [shared]
    assert dict(vars(owner)) == own


@pytest.mark.parametrize("owner", [None, SimpleNamespace(), SimpleNamespace(get_torchlib_ops=3)])
def test_another_torch_exports_all_the_same(monkeypatch, owner):
    monkeypatch.setattr(translations, "_owner", lambda: owner)
    assert export_onnx(NET, EXAMPLE).graph.node


def test_a_torch_without_the_module_has_no_owner(monkeypatch):
    monkeypatch.setattr(translations, "_ASKED_BY", "torch.onnx.no_such_module")
    assert translations._owner() is None
