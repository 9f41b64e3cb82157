import dataclasses
import io

from rich.console import Console

from sslcli.report.progress import describe, panel, show_progress
from sslcli.training.progress import Progress

STEP = Progress(
    kind="step", phase="sparse", epoch=2.4, epochs=20, step=240, steps=2000, loss=0.123, penalty=0.4567,
    zero_groups={"filter": (12, 70), "shape": (130, 525)}, left={"macs": 0.342, "params": 0.2}, lr=0.01,
    strengths={"filter": 5e-3}, images_per_s=12345.0, seconds=100, seconds_left=183,
)  # fmt: skip
EPOCH = dataclasses.replace(STEP, kind="epoch", epoch=3.0, metrics={"accuracy": 0.981, "loss": 0.1})


def test_an_epoch_is_one_line_with_all_it_knows():
    assert describe(EPOCH).plain == (
        "sparse  3/20  loss 0.1230  penalty 0.4567  accuracy 98.10 %  zero filter 12/70, shape 130/525  "
        "MACs 34.2 %  12.3 k img/s  3m 03s left"
    )


def test_what_is_not_known_is_left_out():
    bare = Progress(kind="start", phase="train", epoch=0, epochs=5, step=0, steps=100)
    assert describe(bare).plain == "train starts at 0/5"


def test_the_controller_tells_its_strengths():
    assert "strengths filter 0.005" in describe(dataclasses.replace(STEP, kind="control")).plain


def test_off_a_terminal_epochs_are_plain_lines_and_steps_are_silent():
    stream = io.StringIO()
    with show_progress(Console(file=stream, width=80)) as view:
        for _ in range(50):
            view(STEP)
        view(EPOCH)
        view.line("[2/5] small [prune]")
    assert stream.getvalue().splitlines() == [describe(EPOCH).plain, "[2/5] small [prune]"]


def test_off_a_terminal_the_controller_is_heard_of_as_seldom_as_steps(monkeypatch):
    stream = io.StringIO()
    with show_progress(Console(file=stream, width=80)) as view:
        for _ in range(50):
            view(dataclasses.replace(STEP, kind="control"))
        assert stream.getvalue() == ""
        monkeypatch.setattr("sslcli.report.progress.PLAIN_EVERY_S", 0.0)
        view(dataclasses.replace(STEP, kind="control"))
    assert len(stream.getvalue().splitlines()) == 1


def test_strengths_of_many_layers_are_a_range():
    strengths = {f"filter:conv{number}": number / 100 for number in range(1, 30)}
    record = dataclasses.replace(STEP, kind="control", strengths={**strengths, "shape": 0.5})
    assert "strengths filter 0.01-0.29, shape 0.5" in describe(record).plain


def test_packed_arithmetic_is_told_where_it_is_less():
    packed = dataclasses.replace(EPOCH, left={"macs": 0.3, "macs_packed": 0.2, "params": 0.5})
    assert "MACs 30 %  packed 20 %" in describe(packed).plain
    same = dataclasses.replace(EPOCH, left={"macs": 0.3, "macs_packed": 0.3})
    assert "packed" not in describe(same).plain


def test_the_metric_of_another_task_is_shown_by_its_name():
    record = dataclasses.replace(EPOCH, metrics={"iou": 0.5, "loss": 0.1})
    assert "iou 0.5000" in describe(record).plain


def test_a_long_epoch_off_a_terminal_is_heard_of(monkeypatch):
    stream = io.StringIO()
    with show_progress(Console(file=stream, width=80)) as view:
        monkeypatch.setattr("sslcli.report.progress.PLAIN_EVERY_S", 0.0)
        view(STEP)
    assert stream.getvalue().startswith("sparse  2.4/20")


def test_on_a_terminal_epochs_stay_and_the_live_part_goes():
    stream = io.StringIO()
    with show_progress(Console(file=stream, width=80, force_terminal=True)) as view:
        view(STEP)
        view(EPOCH)
        view(dataclasses.replace(STEP, kind="end"))
    text = stream.getvalue()
    assert "accuracy 98.10 %" in text
    assert "\x1b[2K" in text  # the live part was wiped
    assert text.index("accuracy 98.10 %") < text.index("in 1m 40s")


def test_the_live_part_is_two_lines_of_80_columns():
    stream = io.StringIO()
    groups = {"filter": (1234, 4224), "channel": (1234, 4224), "shape": (130_000, 525_000)}
    crowded = dataclasses.replace(STEP, epochs=200, epoch=102.4, zero_groups=groups, phase="finetune")
    Console(file=stream, width=80).print(panel(crowded))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert max(len(line) for line in lines) <= 80
