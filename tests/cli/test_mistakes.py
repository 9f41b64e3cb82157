"""Plain mistakes of a user: one sentence that names the flag, the file or the line, and the exit code."""

import json
import os
import stat
import textwrap
from pathlib import Path

import onnx
import pytest

from sslcli.cli.main import main
from sslcli.options.export import NEWEST_OPSET

CODE = """
    import torch
    import torch.nn.functional as F
    from torch import nn

    import sslcli

    def build(width=4):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 10))

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            while x.sum() > 0:
                x = self.layer(x) - 1
            return x

    class Samples:
        classes = list("0123456789")

        def __len__(self):
            return 32

        def __getitem__(self, index):
            return torch.full((3, 8, 8), float(index)), index % 10

    def data():
        return Samples(), Samples(), Samples()

    def right(outputs, targets):
        return (outputs.argmax(1) == targets).float()

    def divided(outputs, targets):
        return 1 / 0

    def many(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def failing():
        return sslcli.Task("failing", divided, right)

    def not_scalar():
        return sslcli.Task("not scalar", many, right)

    def one_metric():
        return sslcli.Task("one metric", F.cross_entropy, lambda *pair: right(*pair).mean())

    def plain():
        return sslcli.Task("plain", F.cross_entropy, right)

    def number():
        return 3

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.kind, self.odd = nn.Linear(192, 10), nn.Linear(192, 1)

        def forward(self, x):
            x = x.flatten(1)
            return self.kind(x), self.odd(x)

    class Named(Two):
        def forward(self, x):
            kind, odd = super().forward(x)
            return {"kind": kind, "odd": odd}

    class Flat(Two):
        def forward(self, x):
            return self.odd(x.flatten(1))[:, 0]

    def of_two(outputs, targets):
        return F.cross_entropy(outputs[0], targets)

    def two():
        return sslcli.Task("two", of_two, lambda outputs, targets: right(outputs[0], targets))
"""
NET = ["arch:code.py:build", "--input-shape", "3,8,8"]
DATA = ["--data", "code.py:data", "-b", "16", "--epochs", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(textwrap.dedent(CODE))
    return tmp_path


def line_of(text):
    return 1 + textwrap.dedent(CODE).splitlines().index(text)


def refused(capfd, code, *arguments):
    """The one sentence of a command that ends with ``code``."""
    assert main(list(arguments)) == code
    captured = capfd.readouterr()
    sentences = [line for line in captured.err.splitlines() if not line.startswith("train starts")]
    assert len(sentences) == 1
    return sentences[0]


def left_behind():
    return sorted(path.name for path in Path().iterdir() if path.name not in ("code.py", "__pycache__"))


@pytest.mark.parametrize("values", ["0.5", "0.5,0.5"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_mean_of_too_few_channels_names_both_numbers(capfd, command, values):
    rest = [*DATA, "-o", "x.pt2"] if command == "train" else DATA[:2]
    said = refused(capfd, 3, command, *NET, *rest, "--mean", values, "--std", values)
    assert f"the mean has {values.count(',') + 1} values but the inputs of" in said
    assert "give 3 values for --mean and --std" in said


@pytest.mark.parametrize("opset", ["3", "99"])
def test_an_opset_out_of_range_is_a_usage_error(capfd, opset):
    said = refused(capfd, 2, "export", *NET, "--opset", opset, "-o", "x.onnx")
    assert "--opset should be at" in said


def test_an_opset_that_this_onnx_does_not_know_is_a_usage_error(capfd, monkeypatch):
    assert onnx.defs.onnx_opset_version() >= NEWEST_OPSET
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 17)
    said = refused(capfd, 2, "export", *NET, "--opset", "18", "-o", "x.onnx")
    assert "knows no opset 18; choose --opset 17 or older" in said


def test_a_loss_that_raises_is_told_with_its_line(capfd):
    said = refused(capfd, 3, "train", *NET, *DATA, "--task", "code.py:failing", "-o", "x.pt2")
    place = f"code.py:{line_of('    return 1 / 0')}"
    assert f"the loss of the task code.py:failing fails at {place} (ZeroDivisionError: " in said
    assert left_behind() == []


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("not_scalar", "return a scalar from the task's loss"),
        ("one_metric", "return a tensor of shape (samples,) from the task's metric"),
        ("number", "the task code.py:number made an int"),
    ],
)
def test_a_task_of_the_wrong_kind_is_the_tasks_fault(capfd, task, hint):
    said = refused(capfd, 3, "train", *NET, *DATA, "--task", f"code.py:{task}", "-o", "x.pt2")
    assert hint in said
    assert "the data" not in said
    assert left_behind() == []


@pytest.mark.parametrize(
    ("net", "gives"),
    [
        ("Two", "the model gives (samples, 10) and (samples, 1) and the data (samples)"),
        ("Named", "the model gives kind: (samples, 10) and odd: (samples, 1) and the data (samples)"),
        ("Flat", "the model gives (samples) and the data (samples)"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_model_that_is_no_classifier_needs_a_task(capfd, command, net, gives):
    rest = [*DATA, "-o", "x.pt2"] if command == "train" else DATA[:2]
    said = refused(capfd, 3, command, f"arch:code.py:{net}", "--input-shape", "3,8,8", *rest)
    assert gives in said
    assert said.endswith("; name what is learned with --task file.py:factory")
    assert left_behind() == []


def test_the_task_that_a_record_names_is_told_and_not_run(capfd):
    task = ["--task", "code.py:two"]
    source = ["arch:code.py:Two", "--input-shape", "3,8,8"]
    assert main(["train", *source, *DATA, *task, "-o", "two.pt2", "-q"]) == 0
    capfd.readouterr()
    Path("code.py").rename("mine.py")
    said = refused(capfd, 3, "evaluate", "two.pt2", "--data", "mine.py:data")
    assert said.endswith("; the model's record names the task it has learned: give --task code.py:two")
    said = refused(capfd, 3, "train", "two.pt2", "--data", "mine.py:data", "-o", "x.pt2", "-q")
    assert "give --task code.py:two" in said
    assert main(["evaluate", "two.pt2", "--data", "mine.py:data", "--task", "mine.py:two"]) == 0


def test_an_input_shape_that_the_data_contradict_is_refused_before_training(capfd):
    data = ["--data", "mnist-5k", "--max-steps", "1"]
    said = refused(capfd, 2, "train", "arch:lenet", *data, "--input-shape", "3,32,32", "-o", "x.pt2")
    assert "--input-shape 3,32,32 is not the shape of the samples of mnist-5k, 1,28,28" in said
    assert left_behind() == []


def test_a_network_that_cannot_be_traced_is_refused_before_training(capfd):
    source = ["arch:code.py:Loop", "--input-shape", "3,8,8"]
    said = refused(capfd, 4, "train", *source, *DATA, "-o", "x.pt2")
    assert "cannot be traced" in said
    assert left_behind() == []


def test_a_network_whose_flow_depends_on_data_is_told_in_one_sentence(capfd):
    said = refused(capfd, 4, "prune", "arch:code.py:Loop", "--input-shape", "4", "-o", "x.pt2")
    assert f"its control flow depends on the data at code.py:{line_of('        while x.sum() > 0:')}" in said
    assert left_behind() == []


REGULARIZE = ["regularize", *NET, "-o", "x.pt2", "--data", "code.py:data"]
STAGED = ["--strength-schedule", "staged", "--strength-milestones", "1,2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            [*REGULARIZE, "--target", "flops=0.5"],
            "--target has no 'flops'; choose 'macs', 'params' or 'latency'",
        ),
        (
            ["prune", *NET, "-o", "x.pt2", "--target", "mcas=0.5"],
            "--target has no 'mcas'; did you mean 'macs'?",
        ),
        (["prune", *NET, "-o", "x.pt2", "--target", "latency=0.5"], "which `sslcli regularize` does"),
        (["prune", *NET, "-o", "x.pt2", "--limit", "right=3"], "--limit right should be at most 1, not 3"),
        ([*REGULARIZE, "--structure", "filtr=0.1"], "--structure should be 'filter', 'channel', "),
        (
            [*REGULARIZE, "--structure", "filter=-1"],
            "the strength of --structure should be at least 0, not -1",
        ),
        (
            [*REGULARIZE, "--structure", "filter=1", *STAGED],
            "--strength-factors should have one value more than --strength-milestones",
        ),
        ([*REGULARIZE, "--nesterov", "--momentum", "0"], "--nesterov needs the optimizer sgd"),
        ([*REGULARIZE, "--input-shape", "3x32x32"], "write whole numbers with commas, such as 3,32,32"),
        ([*REGULARIZE, "--mean", "0", "--std", "0"], "--std should be greater than 0, not '0'"),
    ],
)
def test_messages_name_flags_not_fields(capfd, arguments, sentence):
    assert sentence in refused(capfd, 2, *arguments)


@pytest.mark.parametrize("name", ["SSLCLI_TRAIN_EPOCHS", "SSLCLI_EPOCHS"])
@pytest.mark.parametrize("value", ["0", "many"])
def test_a_wrong_value_of_the_environment_names_the_variable(capfd, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    said = refused(capfd, 2, "train", *NET, "-o", "x.pt2", "--data", "code.py:data")
    assert name in said
    assert "--epochs" not in said


@pytest.fixture
def plan():
    assert main(["prune", *NET, "--target", "macs=0.5", "-o", "small.pt2", "-q"]) == 0
    return "small.plan.json"


@pytest.mark.parametrize("flags", [["--json", "pipe"], ["--json", "a.json", "--depfile", "pipe"]])
def test_a_result_does_not_replace_a_pipe(flags, capfd):
    os.mkfifo("pipe")
    assert "pipe is a device or a pipe" in refused(capfd, 9, "inspect", *NET, *flags)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


def test_a_model_of_another_shape_is_told_without_a_traceback(capfd):
    said = refused(capfd, 4, "inspect", NET[0], "--input-shape", "5,8,8")
    assert "cannot be traced" in said


@pytest.mark.parametrize(
    ("structure", "code", "says"),
    [
        ([], 2, "or --target macs=0.5"),
        (["--structure", "filter@conv1=0.1"], 2, "write filter=0.1@conv1"),
        (["--structure", "filter=0.1@nowhere*"], 3, "nowhere"),
    ],
)
def test_structures_are_looked_at_before_data_are_read(capfd, monkeypatch, structure, code, says):
    monkeypatch.setattr("sslcli.pipeline.training_jobs._measured", None)
    assert says in refused(capfd, code, "regularize", *NET, *DATA, "-o", "x.pt2", *structure)


@pytest.mark.parametrize("rehearsed", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-drop", "1"], "--max-drop without a target limits nothing"),
        ([], "no structure to regularize is given"),
        (["--target", "macs=0.5", "--keep", "last"], "--keep last does not go with a target"),
        (["--target", "macs=0.5", "--structure", "filter=0"], "the target macs=0.5 cannot be met"),
    ],
)
def test_options_that_contradict_are_refused_in_the_rehearsal_too(capfd, options, says, rehearsed):
    assert says in refused(capfd, 2, "regularize", *NET, *DATA, "-o", "x.pt2", *options, *rehearsed)
    assert left_behind() == []


@pytest.mark.parametrize("name", ["x.nearest.pt2", "x.metrics.jsonl"])
def test_what_lies_beside_the_output_and_is_not_ours_is_not_written_over(capfd, name):
    Path(name).write_text("mine")
    said = refused(capfd, 9, "regularize", *NET, *DATA, "-o", "x.pt2", "--target", "macs=0.5")
    assert f"{name} is where the" in said
    assert Path(name).read_text() == "mine"


def test_a_teacher_is_not_written_over(capfd):
    assert main(["train", *NET, *DATA, "-o", "t.pt2", "--max-steps", "1", "-q"]) == 0
    capfd.readouterr()
    assert "t.pt2 is the teacher itself" in refused(
        capfd, 9, "train", *NET, *DATA, "-o", "t.pt2", "--teacher", "t.pt2"
    )


def test_a_teacher_of_other_classes_is_named(capfd):
    assert main(["prune", "arch:lenet", "--arch-arg", "classes=3", "-o", "t.pt2", "-q"]) == 0
    capfd.readouterr()
    mnist = ["--data", "mnist-5k", "--max-steps", "1"]
    said = refused(capfd, 3, "train", "arch:lenet", *mnist, "-o", "x.pt2", "--teacher", "t.pt2")
    assert "the teacher t.pt2 gives outputs (2, 3), the model (2, 10)" in said
    assert left_behind() == ["t.plan.json", "t.pt2"]


def test_a_target_is_refused_where_later_strengths_take_all_groups_back(capfd):
    structures = ["--structure", "filter=1", "--structure", "filter=0@*[0-9]*"]
    said = refused(capfd, 2, "regularize", *NET, *DATA, "-o", "x.pt2", "--target", "macs=0.5", *structures)
    assert "since no --structure lets groups go" in said


def test_a_rehearsal_shows_what_a_target_completes(capfd):
    words = ["regularize", *NET, *DATA, "-o", "x.pt2", "--target", "macs=0.5", "--dry-run", "--json", "-"]
    assert main(words) == 0
    shown = json.loads(capfd.readouterr().out)["options"]
    assert (shown["keep"], shown["finetune_epochs"]) == ("best", 1)
    assert shown["structures"] == [{"name": "filter", "strength": 1.0, "match": "*"}]


def test_a_plan_knows_the_shape_of_its_inputs(plan, capfd):
    assert main(["apply-plan", plan, "--arch", "code.py:build", "-o", "own.safetensors"]) == 0
    capfd.readouterr()
    said = refused(capfd, 3, "apply-plan", plan, "--arch", "lenet", "-o", "x.safetensors")
    assert "which the model does not have; use the class" in said
    assert "name it with --arch" in refused(capfd, 2, "apply-plan", plan, "-o", "x.safetensors")


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": "sslcli/prune/1"}'])
def test_json_that_is_no_plan_is_said_to_be_none(capfd, text):
    Path("some.json").write_text(text)
    said = refused(capfd, 3, "apply-plan", "some.json", "--arch", "code.py:build", "-o", "x.safetensors")
    assert "some.json is not a plan" in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("regularize", "regularize does not"),
        ("regularize", "the sum over groups of norm x square root of size"),
        ("train", "mnist, fashion-mnist and mnist-5k are not"),
        ("train", "ImageNet's for image folders"),
        ("train", "(image folders: 3,224,224)"),
        ("train", "~/.cache/sslcli/data"),
        ("train", "the first CUDA device, the CPU where there is none"),
        ("train", "OMP_NUM_THREADS, else one a core"),
        ("prune", "--limit GLOB=FRACTION"),
        ("export", "ONNX operator set, 13 to 28"),
        ("recipe init", "mnist, fashion-mnist, cifar10, mnist-5k, imagefolder:DIR"),
        ("recipe validate", "steps.sparse.epochs=5"),
        ("recipe explain", "steps.sparse.epochs=5"),
    ],
)
def test_help_writes_out_defaults_and_units(capfd, command, words):
    assert main([*command.split(), "--help"]) == 0
    assert "".join(words.split()) in "".join(capfd.readouterr().out.split())  # lines may break at hyphens


def test_an_output_that_is_given_twice_is_refused(capfd):
    said = refused(capfd, 2, "inspect", *NET, "--json", "a.json", "--json", "b.json")
    assert "--json is given twice; give it once" in said
    said = refused(capfd, 2, "prune", *NET, "-o", "a.pt2", "--output", "b.pt2")
    assert "--output is given twice" in said


def test_a_run_does_not_replay_the_course_that_it_writes(capfd, folder):
    (folder / "x.metrics.jsonl").write_text("")
    rest = [*DATA, "--target", "macs=0.5", "--replay", "x.metrics.jsonl"]
    said = refused(capfd, 2, "regularize", *NET, *rest, "-o", "x.pt2")
    assert "x.metrics.jsonl, is what this run writes anew; name another output" in said
    missing = refused(capfd, 3, "regularize", *NET, *DATA, "--replay", "y.jsonl", "-o", "x.pt2")
    assert "the course to replay y.jsonl does not exist" in missing


def test_a_teacher_of_a_task_that_knows_none_is_refused_before_training(capfd):
    rest = [*DATA, "--task", "code.py:plain", "--teacher", "code.py", "-o", "x.pt2"]
    said = refused(capfd, 2, "train", *NET, *rest)
    assert "the task plain says nothing of teachers; give it a distill(" in said
    assert left_behind() == []
