"""The command line: ``pkc``. Commands are loaded when they are called; torch, numpy and rich only inside of them.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 diagnosed, 2 usage, 130 interrupted,
141 where nobody reads stdout any more.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial, wraps
from importlib import import_module
from io import TextIOWrapper
from keyword import iskeyword
from typing import Any

import click

from pkcompiler.cli.output import FORMATS, TYPED, Lost, failed, losses, misused, results_apart, say
from pkcompiler.cli.streams import abandon, kept, stdout
from pkcompiler.diagnostics import Diagnostic, PkcError, on_the_command_line
from pkcompiler.version import __version__

COMMANDS = {
    "prune": "prune",
    "analyze": "analyze",
    "rescale": "rescale",
    "study": "study",
    "certify": "graph",
    "export": "exports",
    "import": "exports",
    "show": "artifacts",
    "compare": "artifacts",
    "ir": "graph",
    "ops": "graph",
    "check": "language",
    "fmt": "language",
    "passes": "language",
    "explain": "language",
}
"""Each command and the module of this folder that holds it (under the same name; ``import`` as ``import_``), in the order of the
help page."""

DONE, DIAGNOSED, USAGE, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141
"""UNREAD: the reader of stdout is gone (``pkc passes | head -1``), which ends other tools by the signal 13, told as 128 + 13."""


class Pkc(click.Group):
    """The group of all commands: loads them on use and turns what they raise into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, its module imported now; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(
            import_module(f"pkcompiler.cli.{COMMANDS[cmd_name]}"), f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        )
        return _prepared(command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is typed; the usage error of an unknown one names a close one."""
        close = get_close_matches(args[0], COMMANDS, 1)
        if args[0] in COMMANDS or args[0].startswith("-") or not close:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"No such command '{args[0]}', did you mean 'pkc {close[0]}'?", ctx)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of a call, which holds the command as it was typed. Raises :class:`Lost` where help cannot be written."""
        typed = shlex.join(["pkc", *args])
        with losses():
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[TYPED] = typed
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """What the command gives. Raises :class:`Lost` where its output cannot be written."""
        with losses():
            return super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "pkc",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; exits, unless ``standalone_mode`` is False: what writes to stdout until then, writes to stderr."""
        given = list(sys.argv[1:] if args is None else args)
        options = {"obj": _error_format(given)} | extra
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                with suppress(OSError):  # the file behind it may be another one by now
                    stream.reconfigure(errors="backslashreplace")  # a name that is no text of the terminal's encoding
        run = partial(super().main, given, prog_name, complete_var, standalone_mode=False, **options)
        with kept(for_good=standalone_mode), on_the_command_line(say):
            if not standalone_mode:
                return run()
            sys.exit(_exit_code(run, options["obj"]))


def _exit_code(run: Callable[[], Any], form: str) -> int:
    try:
        code = run()
    except PkcError as error:
        failed(error.diagnostics, form)
        return DIAGNOSED
    except click.ClickException as error:
        misused(error, form)
        return USAGE
    except click.Abort:
        return INTERRUPTED
    except Lost as lost:
        abandon(stdout())
        if isinstance(lost.error, BrokenPipeError):
            return UNREAD
        failed([_unwritten(lost)], form)
        return DIAGNOSED
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        from pkcompiler.usercode import blame, raised_in

        file = raised_in(error)
        if file is None and isinstance(error, Exception):
            raise
        failed(blame(error, file, "the model's code").diagnostics, form)
        return DIAGNOSED
    return code if isinstance(code, int) else DONE


def _unwritten(lost: Lost) -> Diagnostic:
    note = "send it elsewhere; files that the command has written are whole"
    return Diagnostic("PKC635", f"the result cannot be written to stdout: {lost}", notes=(note,))


def _error_format(args: Sequence[str]) -> str:
    """The ``--error-format`` of a command line, found before it is parsed: usage errors are reported in it too."""
    found = FORMATS[0]
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == "--error-format":
            found = value if equals else "".join(args[i + 1 : i + 2])
    return found if found in FORMATS else FORMATS[0]


def _error_format_option() -> click.Option:
    return click.Option(
        ["--error-format"],
        type=click.Choice(FORMATS),
        default=FORMATS[0],
        expose_value=False,
        help="How errors are written on stderr.",
    )


def _prepared(command: click.Command) -> click.Command:
    """A command with what all have: the option, and results apart from what the user's code prints."""
    if any(param.name == "error_format" for param in command.params) or command.callback is None:
        return command
    command.params.append(_error_format_option())
    command.callback = results_apart(_nothing_empty(command.callback))
    return command


def _nothing_empty(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that refuses an empty text for any of its options and arguments: it is most often a variable that was not set."""

    @wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        context = click.get_current_context()
        for param in context.command.params:
            value = context.params.get(param.name or "")
            if value == "" or (isinstance(value, tuple) and "" in value):
                name = param.opts[-1] if isinstance(param, click.Option) else param.make_metavar(context)
                raise click.UsageError(
                    f"{name} is given an empty text: type a value" + (", or leave it out." if not param.required else ".")
                )
        return command(*args, **kwargs)

    return called


main = Pkc(
    name="pkc",
    help="Path kernels, pruning criteria and sparse networks from one typed graph of a PyTorch model.",
    params=[_error_format_option()],
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, message="pkc %(version)s")(main)
