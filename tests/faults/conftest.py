import hashlib

import pytest


class Folder:
    """A folder in which commands run in forks, with and without trouble."""

    def __init__(self, server, place):
        self.server, self.place = server, place
        self.work = place / "work"
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, command, trouble=None):
        return self.server.run(command.split(), self.place, trouble)

    def must(self, command):
        """Run without trouble, to the end."""
        from forked import Trouble

        outcome = self.run(command, Trouble())
        assert outcome.code == 0, outcome
        return outcome

    def digest(self, name):
        return hashlib.sha256((self.work / name).read_bytes()).hexdigest()

    def hidden(self):
        """What runs keep or leave beside their outputs: temporary files, states, locks."""
        return sorted(path.name for path in self.work.rglob(".*"))


@pytest.fixture
def folder(server, tmp_path):
    return Folder(server, tmp_path)


@pytest.fixture(scope="module")
def shared(server, tmp_path_factory):
    """A folder for what several tests of a file compare with."""
    return Folder(server, tmp_path_factory.mktemp("shared"))
