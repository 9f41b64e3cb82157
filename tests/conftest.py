"""What several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def assets():
    """The folder of public data and checkpoints; the test is skipped where there is none."""
    folder = os.environ.get("SSLCLI_TEST_ASSETS")
    if not folder:
        pytest.skip("SSLCLI_TEST_ASSETS does not name the folder of public data and checkpoints")
    return Path(folder)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch):
    """Options must not come from the environment that the tests run in."""
    for name in list(os.environ):
        if name.startswith("SSLCLI_") and name != "SSLCLI_TEST_ASSETS":
            monkeypatch.delenv(name)
