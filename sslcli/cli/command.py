"""The decorators that make a command: the common flags, and the flags of a step's options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from sslcli.cli.flags import Option, field_options, given, usage_error
from sslcli.cli.show import show
from sslcli.cli.terminal import Terminal
from sslcli.files import check_writable
from sslcli.options.common import Options
from sslcli.options.steps import STEPS, groups, settings
from sslcli.options.validation import OptionsError
from sslcli.pipeline.request import Request

SECTIONS = ("Options", "Model", "Data", "Run", "Output", "Terminal")


@dataclass(frozen=True)
class Common:
    """The flags that every command has."""

    output: Path | None
    force: bool
    json: str | None
    dry_run: bool
    terminal: Terminal


Job = Callable[[Request, Common], object]


class SectionedCommand(click.Command):
    """A command whose help groups its options by topic."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One table a section."""
        for section in SECTIONS:
            rows = [
                record
                for parameter in self.get_params(ctx)
                if getattr(parameter, "section", "Terminal") == section
                and isinstance(parameter, click.Option)
                and (record := parameter.get_help_record(ctx)) is not None
            ]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


def step_command(
    name: str,
    *,
    output: Literal["required", "optional", "none"] = "required",
    others: bool = False,
    leave_out: tuple[str, ...] = (),
) -> Callable[[Job], click.Command]:
    """Make the command of one step: MODEL, the step's options, the common flags.

    Args:
        name: the step, as in ``STEPS``.
        output: whether ``-o`` must be given, may be, or is not there.
        others: whether further models follow MODEL.
        leave_out: options that the arguments say already.
    """

    def decorate(job: Job) -> click.Command:
        kinds = groups(name)

        @click.pass_context
        def callback(ctx: click.Context, /, **parameters: Any) -> None:
            common = _common(ctx, parameters)
            request = Request(
                command=name,
                source=parameters["model"],
                output=common.output,
                settings=_settings(name, kinds, parameters),
                others=tuple(parameters.get("others", ())),
                force=common.force,
            )
            show(_planned(request) if common.dry_run else job(request, common), common.json, common.terminal)

        arguments: list[click.Parameter] = [click.Argument(["model"], metavar="BASE" if others else "MODEL")]
        if others:
            arguments.append(click.Argument(["others"], nargs=-1, metavar="[OTHER]..."))
        return SectionedCommand(
            name,
            callback=functools.update_wrapper(callback, job),
            params=[*arguments, *field_options(kinds, leave_out), *common_options(output)],
            help=job.__doc__ or STEPS[name].summary,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    return decorate


def plain_command(
    name: str,
    *,
    output: Literal["required", "optional", "none"],
    arguments: list[click.Parameter] | None = None,
) -> Callable[[Callable[..., object]], click.Command]:
    """Make a command with options of its own and the common flags.

    The function is called with its parameters by name and ``common``; what it returns is shown.
    """

    def decorate(function: Callable[..., object]) -> click.Command:
        @click.pass_context
        def callback(ctx: click.Context, /, **parameters: Any) -> None:
            common = _common(ctx, parameters)
            own = {key: value for key, value in parameters.items() if key not in _COMMON_NAMES}
            show(function(**own, common=common), common.json, common.terminal)

        return SectionedCommand(
            name,
            callback=functools.update_wrapper(callback, function),
            params=[*(arguments or []), *common_options(output)],
            help=function.__doc__,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    return decorate


def common_options(output: Literal["required", "optional", "none"]) -> list[Option]:
    """``-o --force --json --dry-run -v -q``."""
    options: list[tuple[str, Option]] = []
    if output != "none":
        path = Option(
            ["-o", "--output"],
            required=output == "required",
            type=click.Path(path_type=Path),
            help="The file to write, whole or not at all.",
        )
        force = Option(
            ["--force"],
            is_flag=True,
            default=False,
            help="Replace an output that another command or another model made.",
        )
        options += [("Output", path), ("Output", force)]
    json = Option(
        ["--json"],
        metavar="FILE|-",
        default=None,
        help="Write every number as JSON; - is stdout, alone there.",
    )
    dry_run = Option(["--dry-run"], is_flag=True, default=False, help="Say what would be done; do nothing.")
    verbose = Option(["-v", "--verbose"], count=True, help="Say more; twice: with tracebacks.")
    quiet = Option(["-q", "--quiet"], is_flag=True, default=False, help="Only results and errors.")
    options += [("Output", json), ("Run", dry_run), ("Terminal", verbose), ("Terminal", quiet)]
    for section, option in options:
        option.section = section
    return [option for _, option in options]


_COMMON_NAMES = {"output", "force", "json", "dry_run", "verbose", "quiet"}


def _common(ctx: click.Context, parameters: Mapping[str, Any]) -> Common:
    terminal = ctx.find_object(Terminal) or Terminal()
    terminal.configure(-1 if parameters["quiet"] else parameters["verbose"])
    if parameters["json"] not in (None, "-"):
        check_writable(Path(parameters["json"]))
    return Common(
        output=parameters.get("output"),
        force=bool(parameters.get("force")),
        json=parameters["json"],
        dry_run=parameters["dry_run"],
        terminal=terminal,
    )


def _settings(name: str, kinds: Mapping[str, type[Options]], parameters: Mapping[str, Any]) -> Any:
    try:
        return settings(name, given(kinds, parameters))
    except OptionsError as error:
        failure = usage_error(error)
        failure.ctx = click.get_current_context()
        raise failure from None


def _planned(request: Request) -> object:
    from sslcli.pipeline.outputs import planned

    return planned(request)
