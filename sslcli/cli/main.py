"""The group of commands, and the one place where errors are shown.

Nothing heavy is imported here: a command's module is loaded when that command is called, so that
``sslcli --help`` costs little more than Python's own start.
"""

from __future__ import annotations

import importlib
import signal
import sys
import traceback
import types
from collections.abc import Sequence

import click

from sslcli import __version__
from sslcli.cli.terminal import Terminal
from sslcli.errors import SslcliError

# name -> (module:attribute, the line that `sslcli --help` shows)
COMMANDS = {
    "train": ("sslcli.cli.train:command", "Train or fine-tune: the baseline, the control, the last polish."),
    "regularize": ("sslcli.cli.regularize:command", "Fine-tune until whole groups are exactly zero."),
    "prune": ("sslcli.cli.prune:command", "Remove zero groups, or choose them; verify the result."),
    "export": ("sslcli.cli.export:command", "Write ONNX, lowered for the machine that will serve it."),
    "bench": ("sslcli.cli.bench:command", "Time models against a base, whole and layer by layer."),
    "inspect": ("sslcli.cli.inspect:command", "Show layers, groups and MACs, and why a layer stays whole."),
    "evaluate": ("sslcli.cli.evaluate:command", "Measure accuracy and loss on a data set."),
    "run": ("sslcli.cli.run:command", "Run a recipe; unchanged steps are not run again."),
    "report": ("sslcli.cli.report:command", "Write one HTML page about one or several runs."),
    "recipe": ("sslcli.cli.recipe:command", "Write, check and explain recipes."),
    "apply-plan": ("sslcli.cli.apply_plan:command", "Make the small model as the user's own class."),
    "doctor": ("sslcli.cli.doctor:command", "Say what is installed, what is missing, how to get it."),
}

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command in the error."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(f"there is no command '{name}'; {_nearest_command(name)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "SSLCLI",
        "max_content_width": 100,
    },
    epilog="Every option can be set by the environment too: SSLCLI_DATA_ROOT for --data-root of all "
    "commands, SSLCLI_TRAIN_EPOCHS for one command's. Exit codes: 0 done, 1 internal error, 2 usage, "
    "3 bad recipe, model or data, 4 graph that cannot be handled, 5 target not met, 6 verification "
    "mismatch, 7 benchmark gate failed, 8 device missing, 9 output cannot be written, 130 interrupted.",
)
@click.version_option(__version__, prog_name="sslcli")
def cli() -> None:
    """Make a saved PyTorch model smaller and faster by Structured Sparsity Learning."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error ends here, in one sentence."""
    terminal = Terminal()
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        return _run(terminal, args)
    finally:
        signal.signal(signal.SIGTERM, before)
        _forget_traces()


def _run(terminal: Terminal, args: Sequence[str] | None) -> int:
    try:
        code = cli.main(
            args=list(args) if args is not None else None,
            prog_name="sslcli",
            standalone_mode=False,
            obj=terminal,
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _fail(terminal, _usage_sentence(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail(terminal, "interrupted", INTERRUPTED)
    except SslcliError as error:
        return _fail(terminal, str(error), error.exit_code)
    except MemoryError:
        return _fail(terminal, "out of memory; try a smaller --batch-size", 1)
    except Exception as error:  # noqa: BLE001  (the last resort: one sentence instead of a traceback)
        name = type(error).__name__
        text = " ".join(str(error).split()) or "no message"
        return _fail(terminal, f"{name}: {_cut(text)}; run with -vv for the traceback", 1)
    return code if isinstance(code, int) else 0


def _forget_traces() -> None:
    """Empty torch's caches of what it traced: fake operations, symbols, and the source texts of graphs.

    A process that runs command after command would keep those of every network.
    """
    if "sslcli.graph.trace" not in sys.modules:
        return
    import linecache

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.fx.graph_module import _loader

    FakeTensorMode.cache_clear()
    for member in vars(ShapeEnv).values():
        if hasattr(member, "cache_clear"):
            member.cache_clear()
    for name in _loader.eval_cache:
        linecache.cache.pop(name, None)
    _loader.eval_cache.clear()


def _fail(terminal: Terminal, sentence: str, code: int) -> int:
    if terminal.verbosity >= 2:
        traceback.print_exc()
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {sentence}", err=True, color=terminal.color)
    return code


def _usage_sentence(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message}; see '{context.command_path} --help'" if context is not None else message


def _nearest_command(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"did you mean '{close[0]}'?" if close else f"commands are {', '.join(COMMANDS)}"


def _cut(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _as_interrupt(_signal: int, _frame: types.FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that temporary files and locks go."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
