"""What ends a command whose result says that it failed."""

import pytest

from sslcli.cli.show import show
from sslcli.cli.terminal import Terminal
from sslcli.errors import DeviceError, TargetError
from sslcli.pipeline.results import Diagnosis

FAILURES = [TargetError("missed", "wait"), DeviceError("missing", "install")]


@pytest.mark.parametrize("failure", FAILURES)
def test_what_a_result_failed_of_is_raised(failure):
    with pytest.raises(type(failure)):
        show(Diagnosis([], failure), None, Terminal())


@pytest.mark.parametrize("failure", FAILURES)
def test_of_several_processes_the_first_alone_raises_what_all_miss(monkeypatch, failure):
    monkeypatch.setenv("RANK", "1")
    if isinstance(failure, TargetError):
        show(Diagnosis([], failure), None, Terminal())
    else:  # something is missing on this node alone
        with pytest.raises(DeviceError):
            show(Diagnosis([], failure), None, Terminal())
