from __future__ import annotations

import json

from sslcli.training.progress import MetricsFile, Progress


def record(kind, step, **values):
    return Progress(kind, "train", epoch=step / 10, step=step, epochs=2, steps=20, **values)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_a_record_without_those_of_the_clock(tmp_path):
    write = MetricsFile(tmp_path / "metrics.jsonl")
    for progress in (record("start", 0), record("step", 5), record("epoch", 10, loss=0.5), record("end", 20)):
        write(progress)
    assert [(line["kind"], line["step"]) for line in lines(write.path)] == [("epoch", 10), ("end", 20)]
    assert lines(write.path)[0]["loss"] == 0.5


def test_a_new_run_starts_the_file_anew(tmp_path):
    write = MetricsFile(tmp_path / "metrics.jsonl")
    write(record("epoch", 10))
    write(record("start", 0))
    assert not write.path.exists()  # a run that fails in its first step leaves no file
    write(record("epoch", 5))
    assert [line["step"] for line in lines(write.path)] == [5]


def test_a_continued_run_drops_what_it_will_write_again(tmp_path):
    write = MetricsFile(tmp_path / "metrics.jsonl")
    for progress in (record("start", 0), record("epoch", 10), record("epoch", 20)):
        write(progress)
    with write.path.open("a") as stream:
        stream.write('{"kind": "epo')
    write(record("start", 14))
    write(record("epoch", 20))
    assert [line["step"] for line in lines(write.path)] == [10, 20]
