"""What several test files share."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what test files import from here: forked

from forked import Server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's shell has it in what it starts with &
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def assets():
    """The folder of public data and checkpoints; the test is skipped where there is none."""
    folder = os.environ.get("SSLCLI_TEST_ASSETS")
    if not folder:
        pytest.skip("SSLCLI_TEST_ASSETS does not name the folder of public data and checkpoints")
    return Path(folder)


@pytest.fixture(scope="session")
def server():
    """A process that runs command lines in forks of itself."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch):
    """Options must not come from the environment that the tests run in."""
    for name in list(os.environ):
        if name.startswith("SSLCLI_") and name != "SSLCLI_TEST_ASSETS":
            monkeypatch.delenv(name)
