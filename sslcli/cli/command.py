"""The decorators that make a command: the common flags, and the flags of a step's options."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from sslcli.cli.completion import FILES, MODEL
from sslcli.cli.depfile import RULE, files_of_request, user_modules, write_depfile
from sslcli.cli.flags import Option, field_options, given, usage_error
from sslcli.cli.show import is_first_process, show
from sslcli.cli.terminal import Terminal
from sslcli.errors import TargetError
from sslcli.files import check_own_text, require_apart
from sslcli.options.common import Options
from sslcli.options.steps import STEPS, groups, settings
from sslcli.options.validation import OptionsError
from sslcli.pipeline.outputs import written
from sslcli.pipeline.presence import check_present
from sslcli.pipeline.request import Request

# What a command writes to, in one place each.
_ONCE = frozenset({"output", "json", "depfile", "csv", "markdown", "tensorboard"})
SECTIONS = ("Options", "Model", "Data", "Run", "Output", "Terminal")


@dataclass(frozen=True)
class Common:
    """The flags that every command has."""

    output: Path | None
    force: bool
    json: str | None
    dry_run: bool
    depfile: Path | None
    terminal: Terminal

    def texts(self) -> Iterator[tuple[str, Path]]:
        """The files of text that a command writes about its work, by their flags."""
        if self.json not in (None, "-"):
            yield "--json", Path(str(self.json))
        if self.depfile is not None:
            yield "--depfile", self.depfile


Job = Callable[[Request, Common], object]
OUTPUT_HELP = "The file to write, whole or not at all."
FORCE_HELP = "Replace an output that another command or another model made."


class SectionedCommand(click.Command):
    """A command whose help groups its options by topic."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, which takes the last of two outputs and says nothing of the first."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter in order:
                if parameter.name in _ONCE and order.count(parameter) > 1:
                    raise click.UsageError(f"{parameter.opts[-1]} is given twice; give it once", ctx)
        return super().parse_args(ctx, args)

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
            require_apart([*written(request), *common.texts()])
            check_present(request)
            if common.dry_run:
                show(_planned(request), common.json, common.terminal)
                return
            result = job(request, common)
            if not isinstance(getattr(result, "failure", None), TargetError):  # else the output is not made
                note_sources(common, files_of_request(request))
            show(result, common.json, common.terminal)

        arguments: list[click.Parameter] = [
            click.Argument(["model"], metavar="BASE" if others else "MODEL", shell_complete=MODEL)
        ]
        if others:
            arguments.append(click.Argument(["others"], nargs=-1, metavar="[OTHER]...", shell_complete=MODEL))
        return SectionedCommand(
            name,
            callback=functools.update_wrapper(callback, job),
            params=[*arguments, *field_options(kinds, leave_out), *common_options(output, depfile=True)],
            help=job.__doc__ or STEPS[name].summary,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    return decorate


def note_sources(common: Common, sources: Iterable[Path], target: Path | None = None) -> None:
    """Write the depfile, where one was asked for."""
    target = target or common.output or (Path(common.json) if common.json else None)
    if common.depfile is not None and target is not None and is_first_process():
        named = list(sources)
        write_depfile(common.depfile, target, [*named, *user_modules(named)])


def plain_command(
    name: str,
    *,
    output: Literal["required", "optional", "none"],
    arguments: list[click.Parameter] | None = None,
    output_help: str = OUTPUT_HELP,
    force_help: str = FORCE_HELP,
    depfile: bool = False,
    dry_run: bool = True,
) -> Callable[[Callable[..., object]], click.Command]:
    """Make a command with options of its own and the common flags.

    The function is called with its parameters by name and ``common``; what it returns is shown.
    ``output_help`` and ``force_help`` say what ``-o`` and ``--force`` are where they are not a model's;
    a command with ``depfile`` calls ``note_sources`` itself. One that only looks has no ``dry_run``.
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
            params=[*(arguments or []), *common_options(output, output_help, force_help, depfile, dry_run)],
            help=function.__doc__,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    return decorate


def common_options(
    output: Literal["required", "optional", "none"],
    output_help: str = OUTPUT_HELP,
    force_help: str = FORCE_HELP,
    depfile: bool = False,
    dry_run: bool = True,
) -> list[Option]:
    """``-o --force --json --dry-run -v -q``."""
    options: list[tuple[str, Option]] = []
    if output != "none":
        path = Option(
            ["-o", "--output"],
            required=output == "required",
            type=click.Path(path_type=Path),
            help=output_help,
        )
        force = Option(
            ["--force"],
            is_flag=True,
            default=False,
            help=f"{force_help}  [default: no]",
        )
        options += [("Output", path), ("Output", force)]
    json = Option(
        ["--json"],
        metavar="FILE|-",
        shell_complete=FILES,
        default=None,
        help="Write every number as JSON; - is stdout, alone there.  [default: none]",
    )
    rehearsal = Option(
        ["--dry-run"], is_flag=True, default=False, help="Say what would be done; do nothing.  [default: no]"
    )
    verbose = Option(["-v", "--verbose"], count=True, help="Say more; twice: with tracebacks.  [default: no]")
    quiet = Option(
        ["-q", "--quiet"], is_flag=True, default=False, help="Only results and errors.  [default: no]"
    )
    options += [
        ("Output", json),
        *([("Run", rehearsal)] if dry_run else []),
        ("Terminal", verbose),
        ("Terminal", quiet),
    ]
    if depfile:
        options.append(("Output", _depfile_option()))
    for section, option in options:
        option.section = section
    return [option for _, option in options]


def _depfile_option() -> Option:
    return Option(
        ["--depfile"],
        type=click.Path(path_type=Path),
        help="Write the files that were read as a rule for make's include; its target is the output, or the "
        "file of --json where there is none.  [default: none]",
    )


_RESULT = re.compile(rb'\{\s*"schema": "sslcli/(?!plan/|step/)')  # those are read again
_COMMON_NAMES = {"output", "force", "json", "dry_run", "depfile", "verbose", "quiet"}


def _common(ctx: click.Context, parameters: Mapping[str, Any]) -> Common:
    terminal = ctx.find_object(Terminal) or Terminal()
    terminal.configure(-1 if parameters["quiet"] else parameters["verbose"])
    force = bool(parameters.get("force"))
    if parameters["json"] not in (None, "-"):
        check_own_text(Path(parameters["json"]), _RESULT, "a result of sslcli", force=force)
    depfile, output = parameters.get("depfile"), parameters.get("output")
    if depfile is not None:
        if output is None and parameters["json"] in (None, "-"):
            raise click.UsageError("--depfile needs a target; name a file with -o or --json", ctx)
        check_own_text(depfile, RULE, "a list of what was read", force=force)
    common = Common(
        output=output,
        force=force,
        json=parameters["json"],
        dry_run=bool(parameters.get("dry_run")),
        depfile=depfile,
        terminal=terminal,
    )
    require_apart([*([] if output is None else [("--output", output)]), *common.texts()])
    return common


def _settings(name: str, kinds: Mapping[str, type[Options]], parameters: Mapping[str, Any]) -> Any:
    try:
        return settings(name, given(kinds, parameters))
    except OptionsError as error:
        raise usage_error(error) from None


def _planned(request: Request) -> object:
    from sslcli.pipeline.outputs import planned

    return planned(request)
