import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from case import Place


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Sound files that the cases change."""
    from sslcli import checkpoint, models, surgery

    folder = tmp_path_factory.mktemp("good")
    loaded = checkpoint.load("arch:lenet")
    checkpoint.save(loaded, folder / "lenet.pt2", record=loaded.record)
    checkpoint.save(loaded, folder / "lenet.safetensors", record=loaded.record)
    sparse = models.create("lenet")
    sparse.conv1.weight.data[5:] = 0
    sparse.conv1.bias.data[5:] = 0
    pruned = surgery.prune(sparse, loaded.example, threshold=0.0)
    (folder / "plan.json").write_text(json.dumps(pruned.plan.to_json()))
    return folder


@pytest.fixture
def place(tmp_path, good):
    (tmp_path / "work").mkdir()
    return Place(tmp_path / "work", tmp_path / "canary", good)
