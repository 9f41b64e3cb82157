from __future__ import annotations

import json
import re
import signal

import pytest
import torch

from sslcli.errors import InputError, Interrupted, UsageError
from sslcli.options.training import RegularizeOptions
from sslcli.targeting import TargetMissedError, regularize
from sslcli.targeting.controller import TargetController
from sslcli.targeting.latency import Latency, LatencyTable
from sslcli.training.progress import MetricsFile

TIMES = ("images_per_s", "seconds", "seconds_left")


def options(**values):
    return RegularizeOptions(
        **{"epochs": 6, "finetune_epochs": 2, "lr": 0.02, "target": {"macs": 0.5}, **values}
    )


def run(model, example, data, path, *observers, chosen=None, state_path=None):
    return regularize(
        model, example, data, options=chosen or options(), batch_size=16,
        observers=[MetricsFile(path), *observers], state_path=state_path,
    )  # fmt: skip


def records(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def same(a, b):
    a, b = a.model.state_dict(), b.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def no_controller(monkeypatch):
    """What a replay does not need."""

    def forbid():
        def forbidden(*_arguments, **_values):
            raise AssertionError("a replay measures and chooses nothing")

        for kind in (TargetController, Latency):
            monkeypatch.setattr(kind, "__init__", forbidden)

    return forbid


def test_a_replay_gives_the_same_weights_and_metrics(trained, data, example, tmp_path, no_controller):
    first = run(trained, example, data, tmp_path / "first.jsonl")
    no_controller()
    chosen = options(replay=str(tmp_path / "first.jsonl"))
    again = run(trained, example, data, tmp_path / "again.jsonl", chosen=chosen)
    assert same(again, first)
    assert (again.metrics, again.reached, again.zero_groups) == (
        first.metrics, first.reached, first.zero_groups
    )  # fmt: skip
    assert records(tmp_path / "again.jsonl") == records(tmp_path / "first.jsonl")
    strengths = [record for record in records(tmp_path / "first.jsonl") if record["kind"] == "strengths"]
    assert len(strengths) > 10
    assert any(shares is not None for record in strengths for _, shares in record.get("sets", {}).values())


@pytest.mark.parametrize("finetune_epochs", [1, 2])  # made up for after the last epoch, or before it
def test_groups_that_go_later_go_again(
    trained, data, example, tmp_path, no_controller, monkeypatch, finetune_epochs
):
    whole, asked = TargetController.choose, []

    def one_short(self, parameters, step):
        """The first time as if norms that learn made a group more necessary later."""
        chosen = whole(self, parameters, step)
        asked.append(True)
        if len(asked) == 1:
            chosen[0] = torch.zeros_like(chosen[0])
        return chosen

    monkeypatch.setattr(TargetController, "choose", one_short)
    values = {"epochs": 2, "finetune_epochs": finetune_epochs}
    first = run(trained, example, data, tmp_path / "first.jsonl", chosen=options(**values))
    assert sum("choice" in record for record in records(tmp_path / "first.jsonl")) == 2
    no_controller()
    chosen = options(**values, replay=str(tmp_path / "first.jsonl"))
    again = run(trained, example, data, tmp_path / "again.jsonl", chosen=chosen)
    assert same(again, first)
    assert again.reached == first.reached
    assert records(tmp_path / "again.jsonl") == records(tmp_path / "first.jsonl")


def test_a_latency_target_is_replayed_without_a_clock(
    trained, data, example, tmp_path, no_controller, monkeypatch
):
    calls = []

    def measure(self, weights, last=False):
        calls.append(len(calls))
        return 0.4 + 0.01 * len(calls)  # as no other run will measure again

    monkeypatch.setattr(
        "sslcli.targeting.latency.measure_table", lambda *_args, **_values: LatencyTable({}, 1.0)
    )
    monkeypatch.setattr(Latency, "estimate", lambda self, found, weights: 1.0)
    monkeypatch.setattr(Latency, "measure", measure)
    values = {"epochs": 3, "finetune_epochs": 1, "target": {"latency": 0.9, "macs": 0.6}}
    first = run(trained, example, data, tmp_path / "first.jsonl", chosen=options(**values))
    assert calls
    no_controller()
    chosen = options(**values, replay=str(tmp_path / "first.jsonl"))
    again = run(trained, example, data, tmp_path / "again.jsonl", chosen=chosen)
    assert same(again, first)
    assert again.reached == {name: first.reached[name] for name in ("macs", "drop")}


def test_a_missed_target_is_missed_again(trained, data, example, tmp_path, no_controller):
    values = {"epochs": 2, "finetune_epochs": 1, "target": {"macs": 0.001}}
    with pytest.raises(TargetMissedError) as first:
        run(trained, example, data, tmp_path / "first.jsonl", chosen=options(**values))
    no_controller()
    chosen = options(**values, replay=str(tmp_path / "first.jsonl"))
    with pytest.raises(TargetMissedError) as again:
        run(trained, example, data, tmp_path / "again.jsonl", chosen=chosen)
    assert str(again.value) == str(first.value)
    assert same(again.value.nearest, first.value.nearest)


def stop_after(step):
    def observe(progress):
        if progress.kind == "control" and progress.step == step:
            signal.raise_signal(signal.SIGTERM)

    return observe


@pytest.mark.parametrize("step", [7, 11, 12])
def test_a_stopped_run_leaves_the_records_of_a_whole_one(step, trained, data, example, tmp_path):
    """Whether it is stopped within an epoch or at its end; the same holds for a replay."""
    whole = run(trained, example, data, tmp_path / "whole.jsonl")
    for name, replay in (("cut", None), ("replayed", str(tmp_path / "whole.jsonl"))):
        path, state = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.state"
        with pytest.raises(Interrupted):
            run(
                trained, example, data, path, stop_after(step),
                chosen=options(replay=replay), state_path=state,
            )  # fmt: skip
        with path.open("a") as file:  # as of a run that was killed before its next save
            file.write(
                "".join(
                    json.dumps({"kind": kind, "step": step + 1}) + "\n" for kind in ("control", "strengths")
                )
            )
        again = run(trained, example, data, path, chosen=options(replay=replay), state_path=state)
        assert again.fit.resumed_step == step + 1
        assert same(again, whole)
        assert records(path) == records(tmp_path / "whole.jsonl")


@pytest.fixture
def course(trained, data, example, tmp_path):
    path = tmp_path / "course.jsonl"
    run(trained, example, data, path, chosen=options(epochs=2, finetune_epochs=1, target={"macs": 0.9}))
    return path


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"structures": {"shape": 1.0}}, "12 filter groups of conv1.* where this run has 9 shape groups"),
        ({"structures": {"filter": 1.0, "depth": 1.0}}, "it has nothing where this run has 1 depth groups"),
    ],
)
def test_a_course_of_another_run_is_refused(values, sentence, course, trained, data, example, tmp_path):
    chosen = options(**{"epochs": 2, **values}, replay=str(course))
    with pytest.raises(InputError, match=sentence):
        run(trained, example, data, tmp_path / "other.jsonl", chosen=chosen)
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 3}, "made with --epochs 2, not with --epochs 3; give the same options"),
        ({"finetune_epochs": 2}, "made with --finetune-epochs 1, not with --finetune-epochs 2"),
        ({"lr": 0.01}, "made with --lr 0.02, not with --lr 0.01"),
        ({"target": {"macs": 0.8}}, "made with --target macs=0.9, not with --target macs=0.8"),
        ({"max_drop": 2.0}, "made without --max-drop, not with --max-drop 2.0"),
        ({"schedule": "step", "milestones": (1,)}, "made with --schedule cosine, not with --schedule step"),
        ({"milestones": (1, 2)}, "made without --milestones, not with --milestones 1.0,2.0"),
        ({"nesterov": True}, "made with --no-nesterov, not with --nesterov"),
        ({"seed": 1}, "made with --seed 0, not with --seed 1"),
        ({"batch_size": 8}, "made with --batch-size 16, not with --batch-size 8"),
    ],
)
def test_a_course_made_with_other_options_is_refused(values, sentence, course, trained, data, example):
    others = {name: values.pop(name) for name in ("seed", "batch_size") if name in values}
    given = {"epochs": 2, "finetune_epochs": 1, "target": {"macs": 0.9}, **values}
    chosen = options(**given, replay=str(course))
    with pytest.raises(UsageError, match=re.escape(sentence)) as raised:
        regularize(trained, example, data, options=chosen, **{"batch_size": 16, **others})
    assert raised.value.exit_code == 2


def test_a_course_that_does_not_say_what_it_was_given_is_replayed(course, trained, data, example, tmp_path):
    lines = [json.loads(line) for line in course.read_text().splitlines()]
    for line in lines:
        line.get("run", {}).pop("given", None)
    course.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {"finetune_epochs": 1, "target": {"macs": 0.9}, "replay": str(course)}
    chosen = options(epochs=2, lr=0.01, save_every_steps=3, **values)
    assert run(trained, example, data, tmp_path / "x.jsonl", chosen=chosen).reached
    with pytest.raises(InputError, match="of a run of 12 steps under the penalty, and this has 18"):
        run(trained, example, data, tmp_path / "x.jsonl", chosen=options(epochs=3, **values))


def test_a_binary_file_is_no_course(trained, data, example, tmp_path):
    path = tmp_path / "base.pt2"
    path.write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(InputError, match=r"base\.pt2 holds no strengths of a controller; name the OUT"):
        run(trained, example, data, tmp_path / "x.jsonl", chosen=options(replay=str(path)))


def _damaged(line):
    return line.replace('"sets": {"', '"sets": {"9') if '"choice"' not in line else line


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (lambda lines: [line for line in lines if '"strengths", ' not in line], "holds no strengths"),
        (lambda lines: lines[:-1], "did not end"),
        (lambda lines: ["no JSON", *lines], "is damaged"),
        (lambda lines: [line.replace('"step": 3, ', '"step": -3, ') for line in lines], "is damaged"),
        (lambda lines: [_damaged(line) for line in lines], "is damaged"),
        (lambda lines: [re.sub(r'"e[A-Z]', '"AA', line) for line in lines], "is damaged"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_course_is_refused(changed, sentence, course, trained, data, example, tmp_path):
    if changed is None:
        course.unlink()
    else:
        course.write_text("".join(line + "\n" for line in changed(course.read_text().splitlines())))
    chosen = options(epochs=2, finetune_epochs=1, target={"macs": 0.9}, replay=str(course))
    with pytest.raises(InputError, match=sentence):
        run(trained, example, data, tmp_path / "x.jsonl", chosen=chosen)


def test_a_replay_needs_the_target_of_then(trained, data, example, tmp_path):
    chosen = RegularizeOptions(structures={"filter": 1.0}, replay="x.jsonl")
    with pytest.raises(UsageError, match="repeats a run with a target"):
        run(trained, example, data, tmp_path / "x.jsonl", chosen=chosen)
