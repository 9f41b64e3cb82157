"""What readers do with files that nobody thought of: a result or one sentence, soon, never a traceback.

SSLCLI_FUZZ_S sets the seconds that each reader is fuzzed for. What was found stands in test_found.py.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import signal
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from network import network
from onnx import helper

from sslcli import checkpoint, models
from sslcli.checkpoint.reshape import reshaped
from sslcli.errors import SslcliError
from sslcli.lowering.check import references_of
from sslcli.lowering.drop_channels import drop_channels
from sslcli.lowering.files import read_onnx
from sslcli.lowering.fold_norm import fold_norm
from sslcli.lowering.from_torch import finish
from sslcli.lowering.sites import find_sites
from sslcli.pipeline.onnx_shape import inspect_onnx
from sslcli.plan import Plan
from sslcli.recipe.read import recipe_problems
from sslcli.surgery import prune

SECONDS = float(os.environ.get("SSLCLI_FUZZ_S", "20"))
ONE_S = 10  # seconds of processor time that a single input may take
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS * 3 + 300)]

RECIPE = Path(__file__).parents[2].joinpath("recipes", "demo.yaml").read_text()
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 30),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["*", "conv*", "[", "../x", "dense", "arch:lenet", "1e400", "__class__", "x:y", "\x00"]),
    st.builds(list),
    st.builds(dict),
)
VALUES = st.recursive(
    JUNK, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@contextlib.contextmanager
def bounded():
    """A single input that takes too long is an error of its own."""

    def too_long(_number, _frame):
        raise AssertionError(f"one input took more than {ONE_S} s")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, ONE_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def require_one_sentence(error: SslcliError) -> None:
    assert error.exit_code in (2, 3, 4), repr(error)
    assert "\n" not in str(error), repr(error)


def read(reader: Callable[[], object]) -> None:
    """Run a reader; an error must be ours."""
    with bounded():
        try:
            reader()
        except SslcliError as error:
            require_one_sentence(error)


def for_a_while(strategy: st.SearchStrategy[object], check: Callable[[object], None]) -> int:
    """Draw and check until the time is up; how many."""
    end, count = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:

        @seed(time.time_ns())
        @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(strategy)
        def once(value: object) -> None:
            nonlocal count
            count += 1
            check(value)

        once()
    return count


def places(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


@st.composite
def damaged(draw, value):
    """A copy of a JSON value with some of its places replaced, renamed or removed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 4))):
        at = places(value)
        if not at:
            break
        *path, last = draw(st.sampled_from(at))
        inner = value
        for key in path:
            inner = inner[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "double"])):
            case "replace":
                inner[last] = draw(VALUES)
            case "remove":
                del inner[last]
            case "rename" if isinstance(inner, dict):
                inner[draw(st.text(max_size=10))] = inner.pop(last)
            case _ if isinstance(inner, list):
                inner.append(copy.deepcopy(inner[last]))
    return value


@st.composite
def damaged_bytes(draw, content):
    """Bytes with some changed, cut, repeated or inserted."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        if not content:
            break
        reach = draw(st.sampled_from([64, 512, len(content)]))
        place = draw(st.integers(0, min(reach, len(content)) - 1))
        match draw(st.sampled_from(["byte", "insert", "cut", "remove", "bit", "large"])):
            case "byte":
                content[place] = draw(st.integers(0, 255))
            case "bit":
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                content[place:place] = draw(st.binary(max_size=16))
            case "large":
                content[place : place + 8] = b"\xff" * 8
            case "remove":
                del content[place : place + draw(st.integers(1, 64))]
            case "cut":
                del content[place:]
    return bytes(content)


@st.composite
def recipes(draw):
    """A recipe's text: its values damaged, its text damaged, or both; or YAML out of thin air."""
    kind = draw(st.sampled_from(["values", "text", "both", "air"]))
    if kind == "air":
        alphabet = st.sampled_from([*"abc:-#&*!|>[]{}'\"%@`,? \n\t01._~", "version", "steps", "<<"])
        return "".join(draw(st.lists(alphabet, max_size=60))).encode()
    text = RECIPE
    if kind != "text":
        text = yaml.safe_dump(draw(damaged(yaml.safe_load(RECIPE))), sort_keys=False, allow_unicode=True)
    content = text.encode("utf-8", "replace")
    return draw(damaged_bytes(content)) if kind != "values" else content


def test_recipes(tmp_path):
    path = tmp_path / "r.yaml"

    def check(content):
        path.write_bytes(content)
        with bounded():
            recipe, problems = recipe_problems(path)
        assert (recipe is None) == bool(problems)
        for problem in problems:
            require_one_sentence(problem)

    assert for_a_while(recipes(), check) > 100


@pytest.fixture(scope="module")
def plan():
    model = models.create("lenet")
    model.conv1.weight.data[3:] = 0
    model.conv1.bias.data[3:] = 0
    model.conv2.weight.data[:, :, 0] = 0
    return prune(model, (torch.zeros(2, 1, 28, 28),), threshold=0.0).plan.to_json()


def test_plans(plan):
    model = models.create("lenet")

    def check(value):
        text = json.dumps(value)

        def apply():
            reshaped(model, Plan.from_json(json.loads(text)).to_json(), "plan.json")

        read(apply)

    assert for_a_while(damaged(plan), check) > 100


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Small files of every kind."""
    folder = tmp_path_factory.mktemp("saved")
    loaded = checkpoint.load("arch:mlp", arch_args={"hidden": [4]})
    checkpoint.save(loaded, folder / "m.pt2", record=loaded.record)
    checkpoint.save(loaded, folder / "m.safetensors", record=loaded.record)
    state = loaded.model.state_dict()
    torch.save(state, folder / "m.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@st.composite
def archives(draw, content):
    """A zip file with damage inside its records, so that checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(records)))
        if name.endswith(".json") and draw(st.booleans()):
            with contextlib.suppress(ValueError):
                records[name] = json.dumps(draw(damaged(json.loads(records[name])))).encode()
        else:
            records[name] = draw(damaged_bytes(records[name]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return buffer.getvalue()


def test_saved_models(saved, tmp_path):
    zipped = [content for content in saved if content.startswith(b"PK")]
    files = st.sampled_from(saved).flatmap(damaged_bytes) | st.sampled_from(zipped).flatmap(archives)

    def check(value):
        suffix, content = value
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        read(lambda: checkpoint.load(path, arch="mlp", arch_args={"hidden": [4]}))

    suffixes = st.sampled_from([".pt", ".pt2", ".safetensors", ".onnx", ".bin"])
    assert for_a_while(st.tuples(suffixes, files), check) > 100


OPERATORS = [
    "Conv",
    "Gemm",
    "MatMul",
    "Relu",
    "Add",
    "Concat",
    "Flatten",
    "Identity",
    "Loop",
    "If",
    "Evil",
    "",
]


@st.composite
def graphs(draw):
    """A network with some of its names, operators, attributes, sizes or weights changed."""
    model = network()
    graph = model.graph
    names = sorted({name for node in graph.node for name in [*node.input, *node.output]} | {"", "none"})
    for _ in range(draw(st.integers(1, 4))):
        node = draw(st.sampled_from(list(graph.node)))
        tensor = draw(st.sampled_from(list(graph.initializer)))
        match draw(
            st.sampled_from(["input", "output", "op", "attribute", "dims", "type", "swap", "drop", "x"])
        ):
            case "input" if node.input:
                node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))
            case "output" if node.output:
                node.output[0] = draw(st.sampled_from(names))
            case "op":
                node.op_type = draw(st.sampled_from(OPERATORS))
            case "attribute":
                name = draw(
                    st.sampled_from(
                        ["group", "pads", "strides", "kernel_shape", "axis", "transA", "dilations"]
                    )
                )
                kept = [found for found in node.attribute if found.name != name]
                del node.attribute[:]
                numbers = st.integers(-2, 5) | st.sampled_from([2**62, -(2**62), 0])
                value = draw(numbers | st.lists(numbers, min_size=1, max_size=5))
                node.attribute.extend([*kept, helper.make_attribute(name, value)])
            case "dims" if tensor.dims:
                tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = draw(st.integers(-1, 6))
            case "type":
                tensor.data_type = draw(st.integers(0, 30))
            case "swap":
                place = draw(st.integers(0, len(graph.node) - 1))
                moved = onnx.NodeProto()
                moved.CopyFrom(graph.node[place])
                del graph.node[place]
                graph.node.append(moved)
            case "drop":
                del graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
                if not graph.initializer:
                    break
            case "x":
                dims = graph.input[0].type.tensor_type.shape.dim
                dims[draw(st.integers(0, 3))].dim_value = draw(st.integers(-1, 8))
    return model.SerializeToString()


def test_onnx(tmp_path):
    files = graphs() | st.just(network().SerializeToString()).flatmap(damaged_bytes)
    path = tmp_path / "m.onnx"

    def lowered():
        model = read_onnx(path)
        references_of(model)
        ready = fold_norm(finish(model))
        fewer, _ = drop_channels(ready)
        find_sites(fewer)

    def check(content):
        path.write_bytes(content)
        read(lambda: inspect_onnx(path))
        read(lowered)

    assert for_a_while(files, check) > 50
