from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from sslcli.errors import InputError, Interrupted, OutputError, UsageError
from sslcli.options.training import RegularizeOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.training.loop import fit
from sslcli.training.progress import MetricsFile
from sslcli.training.signals import requests
from sslcli.training.state import RunState, clear_state, read_state, write_state


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sparse(**values):
    return RegularizeOptions(
        **{
            "epochs": 2,
            "finetune_epochs": 1,
            "lr": 0.05,
            "save_every_steps": 1,
            "save_every_s": 1e9,
            **values,
        }
    )


@pytest.fixture
def run(make_net, data, sets):
    """Fit a fresh network with SSL; gives the network and the result."""

    def fit_one(options, state_path=None, observers=(), **values):
        net = make_net(dropout=0.3)
        penalties = [WeightedSet(s, 5e-3) for s in sets(net, "filter", "shape")]
        result = fit(
            net, None, data, options, batch_size=16, penalties=penalties, state_path=state_path,
            observers=observers, **values,
        )  # fmt: skip
        return net, result

    return fit_one


@pytest.mark.parametrize("solver", ["prox", "subgradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_continuing_from_any_step_gives_the_same_bits(optimizer, solver, run, weights, tmp_path, monkeypatch):
    """Every state of a run is kept aside, and a fresh process's worth of objects goes on from each."""
    options = sparse(optimizer=optimizer, solver=solver, keep="best")
    aside = []

    def write_and_copy(path, state):
        write_state(path, state)
        aside.append(shutil.copy(path, tmp_path / f"state{len(aside)}"))

    monkeypatch.setattr("sslcli.training.keeper.write_state", write_and_copy)
    net, whole = run(options, tmp_path / "state")
    monkeypatch.undo()
    assert len(aside) == whole.steps == 18
    for number in (0, 4, 5, 11, 12, 14, 17):
        again, result = run(options, Path(aside[number]))
        assert result.resumed_step == number + 1
        assert same(weights(again), weights(net)), f"after step {number + 1}"
        assert result.metrics == whole.metrics
        assert [record["loss"] for record in result.history] == [record["loss"] for record in whole.history]


def test_a_run_that_keeps_state_equals_one_that_does_not(run, weights, tmp_path):
    kept, _ = run(sparse(), tmp_path / "state")
    bare, _ = run(sparse())
    assert same(weights(kept), weights(bare))


def test_only_one_state_is_left_and_it_can_be_cleared(run, tmp_path):
    run(sparse(), tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    clear_state(tmp_path / "state")
    clear_state(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_trained_again(run, weights, tmp_path):
    first, _ = run(sparse(), tmp_path / "state")
    second, result = run(sparse(), tmp_path / "state")
    assert result.resumed_step == result.steps
    assert same(weights(first), weights(second))


@pytest.mark.parametrize(
    ("options", "values", "difference"),
    [
        (sparse(lr=0.06), {}, "lr was 0.05 and is 0.06"),
        (sparse(), {"seed": 1}, "seed was 0 and is 1"),
        (sparse(), {"identity": {"weights": "w.pt"}}, "weights was absent and is w.pt"),
    ],
)
def test_a_changed_command_says_what_differs(options, values, difference, run, tmp_path):
    run(sparse(), tmp_path / "state")
    with pytest.raises(UsageError, match=difference) as raised:
        run(options, tmp_path / "state", **values)
    assert "--force" in str(raised.value)


def test_another_model_is_noticed(run, make_net, data, sets, tmp_path):
    run(sparse(), tmp_path / "state")
    net = make_net(dropout=0.3, seed=99)
    penalties = [WeightedSet(s, 5e-3) for s in sets(net, "filter", "shape")]
    with pytest.raises(UsageError, match="model was"):
        fit(net, None, data, sparse(), batch_size=16, penalties=penalties, state_path=tmp_path / "state")


def test_a_machine_of_another_precision_is_noticed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    run(sparse(amp="auto"), tmp_path / "state")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    with pytest.raises(UsageError, match="precision was None and is torch"):
        run(sparse(amp="auto"), tmp_path / "state")


def test_how_often_the_state_is_saved_may_change(run, tmp_path):
    run(sparse(), tmp_path / "state")
    _, result = run(sparse(save_every_steps=3), tmp_path / "state")
    assert result.resumed_step == 18


def test_never_begins_anew_and_must_needs_a_state(run, tmp_path):
    with pytest.raises(InputError, match="no state to continue from"):
        run(sparse(resume="must"), tmp_path / "state")
    run(sparse(), tmp_path / "state")
    _, result = run(sparse(resume="never"), tmp_path / "state")
    assert result.resumed_step == 0


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 cut"])
def test_a_broken_state_is_an_error_with_a_way_out(content, run, tmp_path):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as the state of a run") as raised:
        run(sparse(), tmp_path / "state")
    assert "--force" in str(raised.value)


def test_a_state_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "canary",))

    torch.save({"version": 1, "identity": Bomb()}, tmp_path / "state")
    with pytest.raises(InputError):
        read_state(tmp_path / "state", {})
    assert not (tmp_path / "canary").exists()


def test_a_failed_save_leaves_the_state_before(tmp_path, monkeypatch):
    state = RunState({}, 1, {}, {}, {}, 0.0, None, None, [])
    write_state(tmp_path / "state", state)
    before = (tmp_path / "state").read_bytes()

    def fail(content, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("cut")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="cannot write"):
        write_state(tmp_path / "state", state)
    assert (tmp_path / "state").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def stop_after(steps, number, seen):
    """An observer that sends a signal to this process when some epochs are done."""

    def observe(progress):
        seen.append(progress.step)
        if progress.kind == "epoch" and progress.step >= steps:
            os.kill(os.getpid(), number)

    return observe


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_same_call_goes_on(number, run, weights, tmp_path):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 6 of 18") as raised:
        run(sparse(), tmp_path / "state", [stop_after(6, number, [])])
    assert raised.value.exit_code == 130
    assert "same command" in str(raised.value)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    resumed, result = run(sparse(), tmp_path / "state")
    whole, _ = run(sparse())
    assert result.resumed_step == 6
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["recalibrate", "count_zeros"])
def test_a_signal_after_the_last_step_stops_too(place, number, run, weights, tmp_path, monkeypatch):
    module = importlib.import_module("sslcli.training.loop")
    whole, _ = run(sparse(recalibrate=True))
    real = getattr(module, place)

    def signalled(*arguments):
        os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(module, place, signalled)
    path, seen = tmp_path / "state", []
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 18 of 18"):
        run(sparse(recalibrate=True), path, [lambda progress: seen.append(progress.kind)])
    assert "end" not in seen
    monkeypatch.undo()
    again, result = run(sparse(recalibrate=True), path)
    assert result.resumed_step == 18
    assert same(weights(again), weights(whole))


def test_a_signal_that_nobody_sees_to_is_handed_on():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with requests():
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt), requests():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(ProcessLookupError), requests():  # an error goes before
            _ = os.kill(os.getpid(), signal.SIGINT), os.kill(2**30, 0)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_as_the_end_is_told_is_handed_on(run, tmp_path):
    def observe(progress):
        if progress.kind == "end":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(sparse(), tmp_path / "state", [observe])
    assert run(sparse(), tmp_path / "state")[1].resumed_step == 18


def test_a_second_interrupt_ends_at_once(run, tmp_path):
    def observe(progress):
        if progress.kind == "epoch":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second interrupt did not end the run")

    with pytest.raises(KeyboardInterrupt):
        run(sparse(), tmp_path / "state", [observe])


def test_a_notice_of_preemption_saves_and_goes_on(run, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("sslcli.training.keeper.write_state", lambda path, state: saved.append(state.step))
    once = []

    def observe(progress):
        if progress.kind == "epoch" and not once:
            once.append(True)
            os.kill(os.getpid(), signal.SIGUSR1)

    _, result = run(sparse(save_every_steps=None), tmp_path / "state", [observe])
    assert result.steps == 18
    assert saved == [6, 12, 18]


def test_without_a_state_file_an_interrupt_says_so(run):
    with pytest.raises(Interrupted, match="no state was kept"):
        run(sparse(), None, [stop_after(6, signal.SIGINT, [])])


def test_in_another_thread_signals_are_left_alone(run):
    handler = signal.getsignal(signal.SIGINT)
    seen = []
    thread = threading.Thread(
        target=lambda: run(sparse(), None, [lambda progress: seen.append(signal.getsignal(signal.SIGINT))])
    )
    thread.start()
    thread.join()
    assert set(seen) == {handler}


def test_metrics_of_a_continued_run_are_those_of_a_whole_one(run, tmp_path):
    def epochs(path):
        return [
            line.split(', "lr"')[0] for line in path.read_text().splitlines() if '"kind": "epoch"' in line
        ]

    run(sparse(), None, [MetricsFile(tmp_path / "whole.jsonl")])
    with pytest.raises(Interrupted):
        run(
            sparse(), tmp_path / "state",
            [MetricsFile(tmp_path / "cut.jsonl"), stop_after(12, signal.SIGTERM, [])],
        )  # fmt: skip
    run(sparse(), tmp_path / "state", [MetricsFile(tmp_path / "cut.jsonl")])
    assert len(epochs(tmp_path / "whole.jsonl")) == 3
    assert epochs(tmp_path / "cut.jsonl") == epochs(tmp_path / "whole.jsonl")


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import conftest
from pathlib import Path
from sslcli.data.source import DataSource
from sslcli.options.training import RegularizeOptions
from sslcli.sparsity.penalty import WeightedSet
from sslcli.training.loop import fit
torch.set_num_threads(1)
torch.manual_seed(0)
net = conftest.Net(dropout=0.3)
data = DataSource("blobs", conftest.Blobs(96, noisy=True), conftest.Blobs(48, 1), None, None, (1, 8, 8))
penalties = [WeightedSet(conftest.conv_set(n, getattr(net, n).weight, k), 5e-3)
             for k in ("filter", "shape") for n in ("conv1", "conv2")]
options = RegularizeOptions(epochs=8, finetune_epochs=4, lr=0.05, save_every_steps=2)
print("ready", flush=True)
fit(net, None, data, options, batch_size=16, penalties=penalties, state_path=Path(sys.argv[2]) / "state")
torch.save(net.state_dict(), Path(sys.argv[2]) / "final.pt")
"""


def killed_run(folder, seconds):
    """Start the script, kill it after ``seconds`` of training; whether it had come to its end."""
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        return process.wait() == 0


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.slow])])
def test_a_killed_run_ends_with_the_same_bits(kills, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    started = time.monotonic()
    assert killed_run(tmp_path / "whole", 100)
    length = max(0.2, time.monotonic() - started - 2)
    generator = random.Random(kills)
    for _ in range(kills):
        if killed_run(tmp_path / "killed", generator.uniform(0.05, 1.5 * length / kills)):
            break
    assert killed_run(tmp_path / "killed", 100)
    finals = [torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("whole", "killed")]
    assert same(*finals)
