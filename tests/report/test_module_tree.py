import io

from rich.console import Console

from sslcli.pipeline import results
from sslcli.report.module_tree import module_rows
from sslcli.report.render import render


def layer(name, macs):
    return {"name": name, "kind": "conv", "shape": [4, 4, 3, 3], "macs": macs}


LAYERS = [layer("stem", 1), layer("body.0.conv1", 2), layer("body.0.conv2", 3), layer("body.1.deep.conv", 4)]


def test_modules_stand_above_what_they_hold():
    assert [(name, held is not None, macs) for name, held, macs in module_rows(LAYERS)] == [
        ("stem", True, 1),
        ("body", False, 9),
        ("├── 0", False, 5),
        ("│   ├── conv1", True, 2),
        ("│   └── conv2", True, 3),
        ("└── 1.deep.conv", True, 4),
    ]


def test_a_module_can_be_a_layer_and_hold_others():
    rows = list(module_rows([layer("fc", 1), layer("fc.inner", 2)]))
    assert [(name, macs) for name, _, macs in rows] == [("fc", 3), ("└── inner", 2)]
    assert all(held is not None for _, held, _ in rows)


def test_inspect_is_a_tree_on_a_terminal_and_whole_names_elsewhere():
    result = results.InspectResult("arch:net", 10, 10, 100, list(LAYERS))
    for terminal in (True, False):
        stream = io.StringIO()
        render(Console(file=stream, width=80, force_terminal=terminal, no_color=True), result)
        assert ("├── conv1" in stream.getvalue()) == terminal
        assert ("body.0.conv1" in stream.getvalue()) != terminal
