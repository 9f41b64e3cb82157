import os
from pathlib import Path

import pytest
import torch

from sslcli import models
from sslcli.data import load_data, stream


@pytest.mark.assets
@pytest.mark.slow
def test_a_public_checkpoint_reaches_its_published_accuracy_on_cifar10(real_data):
    folder = Path(os.environ["SSLCLI_TEST_ASSETS"]) / "resnet_cifar10_akamaster"
    path = folder / "resnet20-12fca82f.th"
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = models.create("resnet20")
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    model.eval()
    source = load_data("cifar10", root=real_data, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    right = 0
    with torch.no_grad():
        for inputs, targets in stream(source.split("test"), torch.arange(10_000).split(500)):
            right += int((model(inputs).argmax(1) == targets).sum())
    assert right == 9173
