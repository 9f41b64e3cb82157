"""The chain with jobs that only write: what runs, what is cached, what is told."""

import json
import shlex
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from sslcli.errors import (
    DeviceError,
    GateError,
    Interrupted,
    ModelError,
    OutputError,
    RecipeError,
    TargetError,
    UsageError,
)
from sslcli.files import lock_output
from sslcli.models.create import create
from sslcli.pipeline import cache, chain, jobs
from sslcli.pipeline.command_line import run_command_line
from sslcli.pipeline.events import Observers
from sslcli.pipeline.results import TrainingResult
from sslcli.recipe import load_recipe

RECIPE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k}
steps:
  - {id: first, uses: train, with: {epochs: 1}}
  - {id: second, uses: regularize, with: {epochs: 2, structures: {filter: 1.0}}}
  - {id: third, uses: train, with: {epochs: 3}}
  - {id: control, uses: train, needs: first, with: {epochs: 4}}
"""


@dataclass
class Calls:
    """What the jobs were asked for, and how the next one of an id ends."""

    requests: list
    failures: dict

    def names(self):
        found = [request.output.parent.name for request in self.requests]
        self.requests.clear()
        return found


@pytest.fixture
def calls(monkeypatch):
    seen = Calls([], {})

    def job(request, observers):
        seen.requests.append(request)
        name = request.output.parent.name
        if name in seen.failures:
            raise seen.failures[name]
        start = request.source.startswith("arch:")
        made_from = "" if start else Path(request.source).read_text(errors="replace")
        request.output.write_text(f"{made_from}|{name} {request.settings.step.epochs}")
        return TrainingResult(request.command, request.source, str(request.output), {}, 1, 1, 0.0, {}, {})

    monkeypatch.setitem(jobs.JOBS, "train", job)
    monkeypatch.setitem(jobs.JOBS, "regularize", job)
    return seen


@pytest.fixture
def run(tmp_path, calls):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)

    def run(*overrides, **named):
        return chain.run(load_recipe(path, overrides), tmp_path / "runs" / "r", **named)

    return run


def states(result):
    return {step.id: step.state for step in result.steps}


def test_a_run_is_not_strewn_among_other_files(run, calls, tmp_path):
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    run()  # into an empty folder
    run()  # and into that of a run
    (folder / "run.json").unlink()
    run()  # also where it was killed
    for entry in list(folder.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (folder / "photo.png").touch()
    with pytest.raises(OutputError, match="holds no run of this recipe"):
        run()
    assert [entry.name for entry in folder.iterdir()] == ["photo.png"]
    run(force=True)


def test_steps_run_in_turn_on_what_they_need(run, calls, tmp_path):
    result = run()
    assert set(states(result).values()) == {"run"}
    assert calls.names() == ["first", "second", "third", "control"]
    folder = tmp_path / "runs" / "r"
    assert (folder / "third" / "model.pt2").read_text() == "|first 1|second 2|third 3"
    assert (folder / "control" / "model.pt2").read_text() == "|first 1|control 4"
    assert result.steps[0].outputs == [str(folder / "first" / "model.pt2")]
    assert json.loads((folder / "run.json").read_text())["schema"] == "sslcli/run/1"
    assert json.loads((folder / "first" / "step.json").read_text())["uses"] == "train"


def test_the_run_says_how_when_and_from_which_seed_it_was_made(run, tmp_path):
    result = run("second.epochs=9", "seed=7")
    words = shlex.split(result.made.command)
    folder = tmp_path / "runs" / "r"
    assert words == [
        "sslcli", "run", str(tmp_path / "r.yaml"), "-o", str(folder),
        "--set", "second.epochs=9", "--set", "seed=7",
    ]  # fmt: skip
    assert result.made.seed == 7
    assert datetime.fromisoformat(result.made.created).utcoffset() == timedelta(0)
    assert json.loads((folder / "run.json").read_text())["made"]["command"] == result.made.command


def test_the_folder_that_is_the_default_and_the_machine_are_said_as_they_were_given(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", (), {"device": "cpu", "threads": 2})
    line = run_command_line(recipe, Path("runs/r"))
    assert shlex.split(line)[2:] == [str(tmp_path / "r.yaml"), "--device", "cpu", "--threads", "2"]


def test_a_second_run_does_nothing(run, calls):
    run()
    calls.names()
    assert set(states(run()).values()) == {"cached"}
    assert calls.names() == []


def test_a_changed_step_runs_again_with_those_that_need_it_alone(run, calls):
    run()
    calls.names()
    assert states(run("second.epochs=9")) == {
        "first": "cached",
        "second": "run",
        "third": "run",
        "control": "cached",
    }
    assert calls.names() == ["second", "third"]


@pytest.mark.parametrize("option", ["first.workers=2", "first.save_every_s=1", "first.resume=never"])
def test_options_without_effect_on_the_result_change_nothing(run, calls, option):
    run()
    calls.names()
    run(option)
    assert calls.names() == []


@pytest.mark.parametrize("option", ["seed=1", "data.batch_size=2", "model.arch=mlp", "data.name=mnist"])
def test_what_all_steps_share_makes_all_run_again(run, calls, option):
    run()
    calls.names()
    run(option)
    assert calls.names() == ["first", "second", "third", "control"]


def test_a_step_that_comes_out_the_same_spares_the_steps_after_it(run, calls, monkeypatch):
    run()
    calls.names()
    run("first.lr=0.5")  # the job writes the same bytes
    assert calls.names() == ["first"]


def test_new_code_makes_all_run_again(run, calls, monkeypatch):
    run()
    calls.names()
    monkeypatch.setattr(cache, "code_version", lambda: "other")
    run()
    assert calls.names() == ["first", "second", "third", "control"]


def test_a_damaged_output_is_made_again(run, calls, tmp_path):
    run()
    calls.names()
    (tmp_path / "runs/r/second/model.pt2").write_text("cut off")
    run()
    assert calls.names() == ["second"]


def test_a_damaged_record_counts_as_none(run, calls, tmp_path):
    run()
    calls.names()
    (tmp_path / "runs/r/control/step.json").write_text('{"schema": ')
    run()
    assert calls.names() == ["control"]


def test_force_runs_everything(run, calls):
    run()
    calls.names()
    run(force=True)
    assert len(calls.names()) == 4


def test_a_run_that_was_stopped_continues_with_what_the_step_kept(run, calls, tmp_path):
    calls.failures["second"] = Interrupted("stopped")
    with pytest.raises(Interrupted):
        run()
    state = tmp_path / "runs/r/second/state"
    state.write_text("half way")
    calls.names()
    calls.failures.clear()
    run()
    assert calls.names() == ["second", "third", "control"]
    assert state.read_text() == "half way"


def test_a_stopped_step_that_has_changed_begins_anew(run, calls, tmp_path):
    calls.failures["second"] = Interrupted("stopped")
    with pytest.raises(Interrupted):
        run()
    state = tmp_path / "runs/r/second/state"
    state.write_text("half way")
    calls.failures.clear()
    run("second.epochs=7")
    assert not state.exists()


def test_a_dry_run_says_what_would_run_and_writes_nothing(run, calls, tmp_path):
    path = tmp_path / "r.yaml"
    folder = tmp_path / "runs" / "r"
    planned = chain.plan_run(load_recipe(path), folder)
    assert [(step.state, step.reason) for step in planned.steps] == [
        ("to run", "new"),
        ("to run", "needs first"),
        ("to run", "needs second"),
        ("to run", "needs first"),
    ]
    assert not folder.exists()
    run()
    calls.names()
    planned = chain.plan_run(load_recipe(path, ["second.epochs=9"]), folder)
    assert [(step.state, step.reason) for step in planned.steps] == [
        ("cached", ""),
        ("to run", "has changed"),
        ("to run", "needs second"),
        ("cached", ""),
    ]
    assert calls.names() == []


def test_a_failed_gate_ends_the_run_keeps_the_numbers_and_is_not_cached(run, calls, monkeypatch):
    def job(request, observers):
        request.output.write_text("x")
        result = TrainingResult("train", "", "", {}, 1, 1, 0.0, {}, {})
        object.__setattr__(result, "failure", GateError("too slow"))
        return result

    monkeypatch.setitem(jobs.JOBS, "regularize", job)
    for _ in range(2):
        result = run()
        assert isinstance(result.failure, GateError)
        assert states(result)["second"] == "failed"
        assert "third" not in states(result)


def test_a_step_that_missed_its_target_made_no_model(run, calls, monkeypatch):
    def job(request, observers):
        return TrainingResult("", "", "", {}, 1, 1, 0.0, {}, {}, failure=TargetError("too large"))

    monkeypatch.setitem(jobs.JOBS, "regularize", job)
    for _ in range(2):  # again, since the step is not done
        result = run()
        assert isinstance(result.failure, TargetError)
        assert (states(result)["second"], result.steps[-1].outputs) == ("failed", [])
        assert "too large" in json.loads((Path(result.folder) / "second/step.json").read_text())["failure"]
        assert [row.id for row in result.models] == ["first"]
    planned = chain.plan_run(load_recipe(Path(result.recipe)), Path(result.folder))
    assert [(step.state, step.reason) for step in planned.steps][1] == ("to run", "has failed")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            UsageError("the glob 'lenet' matches nothing"),
            "r.yaml:2: the glob 'lenet' matches nothing in step 'second'",
        ),
        (ModelError("the saved model lenet is not there"), "r.yaml:2: the saved model lenet is not there"),
        (UsageError("no such thing", culprit="epochs"), "r.yaml:6: no such thing in step 'second'"),
        (UsageError("something is wrong"), "r.yaml:6: something is wrong in step 'second'"),
    ],
)
def test_what_turns_out_wrong_later_still_names_the_line(run, calls, error, message):
    calls.failures["second"] = error
    with pytest.raises(RecipeError) as caught:
        run()
    assert message in str(caught.value)


def test_errors_that_are_not_about_the_recipe_stay_what_they_are(run, calls):
    calls.failures["second"] = OutputError("disk full")
    with pytest.raises(OutputError, match="disk full"):
        run()


def test_one_run_at_a_time_in_a_folder(run, tmp_path):
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    with lock_output(folder / "run"), pytest.raises(OutputError, match="another run"):
        run()


def test_a_folder_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError):
        run()


def test_observers_are_told_what_happens(run):
    seen = []
    run(observers=Observers(step=lambda event: seen.append((event.id, event.state))))
    assert seen[:2] == [("first", "running"), ("first", "done")]
    seen.clear()
    run(observers=Observers(step=lambda event: seen.append((event.id, event.state))))
    assert seen == [(name, "cached") for name in ("first", "second", "third", "control")]


def test_references_to_steps_become_their_files(tmp_path, calls):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + "  - {id: taught, uses: train, needs: third, with: {teacher: first}}\n")
    chain.run(load_recipe(path), tmp_path / "out")
    assert calls.requests[-1].settings.step.teacher == str(tmp_path / "out/first/model.pt2")
    assert calls.requests[-1].source == str(tmp_path / "out/third/model.pt2")


def test_a_step_that_needs_nothing_works_on_the_recipe_s_model_whoever_teaches_it(tmp_path, calls):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + "  - {id: taught, uses: train, needs: [], with: {teacher: first}}\n")
    result = chain.run(load_recipe(path), tmp_path / "out")
    assert calls.requests[-1].source == "arch:lenet"
    assert calls.requests[-1].settings.step.teacher == str(tmp_path / "out/first/model.pt2")
    assert result.steps[-1].needs == []


def test_the_recipe_s_own_model_teaches_a_later_step_as_the_architecture_it_is(tmp_path, calls):
    weights = tmp_path / "w.pth"
    torch.save(create("lenet").state_dict(), weights)
    path = tmp_path / "r.yaml"
    text = RECIPE.replace("{arch: lenet}", f"{{arch: lenet, weights: {weights}}}")
    path.write_text(text + "  - {id: taught, uses: train, needs: third, with: {teacher: model}}\n")
    chain.run(load_recipe(path), tmp_path / "out")
    taught, third = calls.requests[-1], calls.requests[-2]
    assert (taught.settings.step.teacher, taught.settings.model.arch) == (str(weights), "lenet")
    assert taught.source == str(tmp_path / "out/third/model.pt2")
    assert third.settings.model.arch is None  # a file of our own says what it is


def test_a_device_that_is_not_there_is_told_before_any_step_runs(tmp_path, calls):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("{epochs: 3}", "{epochs: 3, device: 'cuda:99'}"))
    with pytest.raises(DeviceError, match="cuda:99"):
        chain.run(load_recipe(path), tmp_path / "out")
    assert calls.names() == []


def test_a_plan_tells_of_weights_that_are_not_there_too(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("{arch: lenet}", "{arch: lenet, weights: none.pth}"))
    with pytest.raises(RecipeError, match=r"r.yaml:2: the saved model none.pth does not exist"):
        chain.plan_run(load_recipe(path), tmp_path / "out")


def test_weights_that_are_not_there_are_named_with_their_line(tmp_path, calls):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("{arch: lenet}", "{arch: lenet, weights: none.pth}"))
    with pytest.raises(RecipeError, match=r"r.yaml:2: the saved model none.pth does not exist"):
        chain.run(load_recipe(path), tmp_path / "out")


def test_the_baseline_of_a_bench_is_timed_once(tmp_path, calls, monkeypatch):
    seen = []

    def bench(request, observers):
        seen.append(request)
        return TrainingResult("bench", request.source, "", {}, 1, 1, 0.0, {}, {})

    monkeypatch.setitem(jobs.JOBS, "bench", bench)
    path = tmp_path / "r.yaml"
    path.write_text(
        RECIPE + "  - {id: speed, uses: bench, needs: [third, second], with: {baseline: first}}\n"
    )
    chain.run(load_recipe(path), tmp_path / "out")
    models = {name: str(tmp_path / "out" / name / "model.pt2") for name in ("first", "second", "third")}
    assert seen[0].settings.step.baseline == models["first"]
    assert (seen[0].source, seen[0].others) == (models["third"], (models["second"],))
