"""A small exported program, and means to tamper with its archive."""

import io
import json
import zipfile

import pytest
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x):
        y = torch.relu(self.bn(self.conv(x)))
        return self.fc(y.reshape(x.shape[0], -1))


class Archive:
    """Records of a `.pt2` by name; change them, then write."""

    def __init__(self, content, path):
        self.path = path
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            self.records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}

    @property
    def program(self):
        return json.loads(self.records["models/model.json"])

    @program.setter
    def program(self, value):
        self.records["models/model.json"] = json.dumps(value).encode()

    @property
    def weights(self):
        return json.loads(self.records["data/weights/model_weights_config.json"])

    @weights.setter
    def weights(self, value):
        self.records["data/weights/model_weights_config.json"] = json.dumps(value).encode()

    def text(self, old, new):
        """Replace text in the program."""
        record = self.records["models/model.json"].decode()
        assert old in record
        self.records["models/model.json"] = record.replace(old, new).encode()

    def write(self, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(self.path, "w", compression) as archive:
            for name, content in self.records.items():
                archive.writestr(f"archive/{name}", content)
        return self.path


@pytest.fixture(scope="session")
def small_archive():
    torch.manual_seed(0)
    model = Small().eval()
    exported = torch.export.export(
        model, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("b")},)
    )
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    return buffer.getvalue()


@pytest.fixture
def archive(small_archive, tmp_path):
    return Archive(small_archive, tmp_path / "model.pt2")


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()
