import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sslcli.cli import main as module
from sslcli.cli.main import COMMANDS, main
from sslcli.options.names import ARCHITECTURES

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "pydantic", "rich", "yaml")


def imported_by(code):
    """The names of all modules that a fresh interpreter has after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_nothing_heavy():
    loaded = imported_by("from sslcli.cli.main import main; main(['--help'])")
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "recipe"])
def test_the_help_of_a_command_loads_no_torch(command):
    loaded = imported_by(f"from sslcli.cli.main import main; main(['{command}', '--help'])")
    assert not loaded & {"torch", "onnx", "onnxruntime", "numpy"}


@pytest.mark.parametrize(
    "name",
    ["sslcli", "sslcli.errors", "sslcli.files", "sslcli.options.steps", "sslcli.recipe", "sslcli.cli.main"],
)
def test_the_lower_layers_load_no_torch(name):
    assert not imported_by(f"import {name}") & {"torch", "onnx", "onnxruntime", "numpy"}


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "sslcli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "sslcli, version 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pruen"], "there is no command 'pruen'; did you mean 'prune'?; see 'sslcli --help'"),
        (["train", "arch:lenet"], "Missing option '-o' / '--output'; see 'sslcli train --help'"),
        (["train"], "Missing argument 'MODEL'; see 'sslcli train --help'"),
        (
            ["train", "arch:lenet", "-o", "x.pt2", "--epohcs", "3"],
            "No such option '--epohcs'. Did you mean '--epochs'?",
        ),
        (
            ["train", "arch:lenet", "-o", "x.pt2", "--epochs", "0"],
            "--epochs should be greater than 0, not 0; see 'sslcli train --help'",
        ),
        (["train", "arch:lenet", "-o", "x.pt2", "--epochs", "x"], "Invalid value for '--epochs'"),
        (["regularize", "arch:lenet", "-o", "x.pt2", "--structure", "=1"], "is not NAME=STRENGTH[@GLOB]"),
        (
            ["regularize", "arch:lenet", "-o", "x.pt2", "--structure", "filter@conv1"],
            "structure filter has no strength, which only a target finds; give it, such as filter=0.005",
        ),
        (["regularize", "arch:lenet", "-o", "x.pt2", "--structure", "filter=a"], "'a' is not a number"),
        (
            ["regularize", "arch:lenet", "-o", "x.pt2", "--structure", "filtr=1"],
            "not 'filtr'; did you mean 'filter'?",
        ),
        (["regularize", "arch:lenet", "-o", "x.pt2", "--target", "macs"], "is not NAME=FRACTION"),
        (["regularize", "arch:lenet", "-o", "x.pt2", "--target", "macs=2"], "should be at most 1, not 2"),
        (["doctor", "--dry-run"], "No such option '--dry-run'"),
        (["run", "x.yaml", "--set", "seed"], ""),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_one_sentence(tmp_path, monkeypatch, capfd, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("version: 1\n")
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_an_unexpected_error_is_one_sentence_and_exit_1(monkeypatch, capfd):
    def broken(*_args, **_named):
        raise RuntimeError("a pipe\nbroke")

    monkeypatch.setattr(module.cli, "main", broken)
    assert main(["doctor"]) == 1
    assert capfd.readouterr().err == "Error: RuntimeError: a pipe broke; run with -vv for the traceback\n"


def test_a_traceback_comes_with_two_vs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "none.pt2", "--data", "mnist-5k", "-vv"]) == 3
    assert "Traceback" in capfd.readouterr().err
    assert main(["evaluate", "none.pt2", "--data", "mnist-5k"]) == 3
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_exit_130(monkeypatch, capfd, error):
    def interrupted(*_args, **_named):
        raise error

    monkeypatch.setattr(module.cli, "main", interrupted)
    assert main(["doctor"]) == 130
    assert capfd.readouterr().err == "Error: interrupted\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is(name):
    command = module.cli.get_command(click.Context(module.cli), name)
    for found in [command, *getattr(command, "commands", {}).values()]:
        assert found.help
        for parameter in found.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"
                assert parameter.required or re.search("(?i)default|required", parameter.help), parameter.help


UNITS = re.compile(
    "seconds|epochs|steps|samples|items|batches|threads|processes|runs|filters|points|fraction|share|factor"
    "|multiple|times|rate|norm|momentum|probabilities|decay|square|smoothing|seed|opset|operator|strength|elements"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_its_unit(name):
    command = module.cli.get_command(click.Context(module.cli), name)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.type.name in ("integer", "float"):
            words = f"{parameter.name} {parameter.help}".lower()
            assert UNITS.search(words), f"{name} --{parameter.name}: {parameter.help}"


def test_no_colour_off_a_terminal(capfd):
    main(["pruen"])
    assert "\x1b" not in capfd.readouterr().err


def offered(*words):
    """What a shell is told for the last of ``words``, by the installed script: kind,value."""
    environment = {
        **os.environ,
        "_SSLCLI_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["sslcli", *words]),
        "COMP_CWORD": str(len(words)),
    }
    script = Path(sys.executable).with_name("sslcli")
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def completed(*words):
    """The words that a shell offers, without the files that it looks for itself."""
    return [line.removeprefix("plain,") for line in offered(*words) if line.startswith("plain,")]


def test_a_shell_completes_commands_options_and_choices():
    assert completed("pru") == ["prune"]
    assert completed("prune", "x.pt2", "--thr") == ["--threshold", "--threads"]
    assert completed("regularize", "x.pt2", "--solver", "p") == ["prox"]
    assert completed("regularize", "x.pt2", "--target", "") == ["macs=", "params=", "latency="]
    assert completed("prune", "x.pt2", "--target", "") == ["macs=", "params="]
    assert completed("export", "x.pt2", "--lower", "compact-") == [
        "compact-8",
        "compact-16",
        "compact-columns",
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["train", "mi"], []),
        (["train", "ar"], [f"arch:{name}" for name in ARCHITECTURES]),
        (["bench", "a.onnx", "mi"], []),
        (["train", "x.pt2", "--teacher", "mi"], []),
        (["train", "x.pt2", "--data", "mn"], ["mnist", "mnist-5k"]),
        (["prune", "x.pth", "--arch", "resnet2"], ["resnet20"]),
        (["recipe", "init", "x.pth", "--data", "ci"], ["cifar10"]),
    ],
)
def test_a_shell_completes_files_and_built_in_names(words, names):
    assert completed(*words) == names
    assert f"file,{words[-1]}" in offered(*words)


def test_completion_loads_no_torch():
    code = "import os; os.environ.update(_SSLCLI_COMPLETE='bash_complete', COMP_WORDS='sslcli train mi', "
    code += "COMP_CWORD='2'); from sslcli.cli.main import main; main()"
    assert not imported_by(
        f"import contextlib\nwith contextlib.suppress(SystemExit):\n    exec({code!r})"
    ) & {
        "torch",
        "onnx",
        "numpy",
    }


def test_the_package_can_be_run_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "sslcli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("sslcli, version ")


TRACES_KEPT = """
import gc
from sslcli.cli.main import main
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph_module import _loader
for _ in range(4):
    words = "prune arch:mlp --arch-arg hidden=[4] --target macs=0.5 -o small.pt2 --force -q"
    assert main(words.split()) == 0
    gc.collect()
    print("kept", sum(type(thing) is ShapeEnv for thing in gc.get_objects()), len(_loader.eval_cache))
"""


def test_a_command_leaves_nothing_of_what_it_traced(tmp_path):
    """Torch's caches, and a cycle through C++, would keep the symbols and sources of every trace.

    In a process of its own, since pytest keeps what is logged, and torch logs its symbols.
    """
    done = subprocess.run(
        [sys.executable, "-c", TRACES_KEPT], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    kept = [line for line in done.stdout.splitlines() if line.startswith("kept")]
    assert len(kept) == 4
    assert len(set(kept[1:])) == 1, kept  # not of the one before: the first command finds empty caches
