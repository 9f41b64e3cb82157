"""Random damage to saved models: each is loaded or refused in one sentence, never a traceback."""

import copy
import io
import random

import pytest
import torch
from safetensors.torch import save

from sslcli import models
from sslcli.checkpoint import load
from sslcli.errors import SslcliError

JUNK = [None, 0, -1, 2**63, 10**30, 1.5, True, "", "x", "__class__", [], [[]], {}, {"as_int": 3}]


def refusal(path, **options):
    """The error of loading a file, None where it loads."""
    try:
        load(path, **options)
    except SslcliError as error:
        return error
    return None


def assert_one_sentence(error):
    assert error is None or (error.exit_code == 3 and "\n" not in str(error))


def places(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def damage_json(value, rng):
    place = rng.choice([p for p in places(value) if p])
    for key in place[:-1]:
        value = value[key]
    if rng.random() < 0.6:
        value[place[-1]] = copy.deepcopy(rng.choice(JUNK))
    else:
        del value[place[-1]]


def damage_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(content), 2000) if rng.random() < 0.7 else len(content))
        if rng.random() < 0.8:
            content[place] = rng.randrange(256)
        else:
            content[place:place] = rng.randbytes(8)
    return bytes(content)


@pytest.mark.parametrize("seed", range(25))
def test_damaged_programs(seed, archive):
    rng = random.Random(seed)
    program = archive.program
    damage_json(program, rng)
    archive.program = program
    assert_one_sentence(refusal(archive.write()))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pt2"])
@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes(kind, seed, small_archive, tmp_path):
    state = models.create("mlp", {"hidden": [4]}).state_dict()
    buffer = io.BytesIO()
    if kind in ("zip", "legacy"):
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    content = {"safetensors": save(state), "pt2": small_archive}.get(kind, buffer.getvalue())
    path = tmp_path / "w.pt"
    path.write_bytes(damage_bytes(content, random.Random(seed)))
    assert_one_sentence(refusal(path, arch="mlp", arch_args={"hidden": [4]}))
