from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
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


@pytest.mark.parametrize("owner", [None, SimpleNamespace(), SimpleNamespace(get_torchlib_ops=3)])
def test_another_torch_exports_all_the_same(monkeypatch, owner):
    monkeypatch.setattr(translations, "_owner", lambda: owner)
    assert export_onnx(NET, EXAMPLE).graph.node


def test_a_torch_without_the_module_has_no_owner(monkeypatch):
    monkeypatch.setattr(translations, "_ASKED_BY", "torch.onnx.no_such_module")
    assert translations._owner() is None
