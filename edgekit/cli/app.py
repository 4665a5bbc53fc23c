"""The command line: the only home of typer, print and exit."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from typing import Any, NoReturn

import typer
from typer._click import exceptions as usage
from typer.core import TyperGroup

from edgekit import __version__
from edgekit.augment.op import OPS
from edgekit.augment.settings import augment
from edgekit.cli import listing
from edgekit.cli.console import Console
from edgekit.cli.signature import OrderedCommand, Typed, command
from edgekit.compress.method import STEPS
from edgekit.compress.settings import compress
from edgekit.errors import EdgekitError
from edgekit.spec import nearest

EPILOG = "exit codes: 0 done; 1 ran and the answer is no; 2 could not run; 3 a bug; 130 interrupted"

AUGMENT_EXAMPLES = """

Examples:

  edgekit augment ./imgs --flip --rotate 15

  edgekit augment ./imgs --flip --op "rotate 10 p=0.5 border=constant" -n 8 --out ./more
"""

COMPRESS_EXAMPLES = """

Examples:

  edgekit compress model.onnx --int8

  edgekit compress model.onnx --int8 --calib ./train --data ./val --gate 'accuracy.drop<=0.01'
"""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"edgekit {__version__}")
        raise typer.Exit()


class Group(TyperGroup):
    """The top level: commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Keep the order in which they were added."""
        return list(self.commands)


def _run_augment(source: str, typed: Typed) -> int:
    from edgekit.cli.augment import run_augment  # each verb loads its own rooms only

    return run_augment(source, typed)


def _run_compress(model: str, typed: Typed) -> int:
    from edgekit.cli.compress import run_compress

    return run_compress(model, typed)


def build() -> typer.Typer:
    """Put the commands together."""
    markup: Any = "rich" if sys.stdout.isatty() else None
    app = typer.Typer(
        name="edgekit",
        cls=Group,
        no_args_is_help=True,
        rich_markup_mode=markup,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EPILOG,
    )

    @app.callback()
    def top(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="show the version"),
    ) -> None:
        """From a folder of pictures and an ONNX model to a smaller, faster, still accurate edge model, with proof."""

    source = ("src", "folder of pictures, flat or with one folder a class")
    app.command("augment", cls=OrderedCommand, help=augment.help() + AUGMENT_EXAMPLES)(
        command(augment, OPS, source, _run_augment)
    )
    model = ("model", "the ONNX model")
    app.command("compress", cls=OrderedCommand, help=compress.help() + COMPRESS_EXAMPLES)(
        command(compress, STEPS, model, _run_compress)
    )
    app.command("ops")(listing.ops)
    app.command("steps")(listing.steps)
    app.command("config")(listing.config)
    return app


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminated)
    arguments = sys.argv[1:]
    console = Console(json="--json" in arguments)
    debug = "--debug" in arguments
    try:
        code = typer.main.get_command(build()).main(arguments, prog_name="edgekit", standalone_mode=False)
        sys.stdout.flush()
    except EdgekitError as error:
        if debug:
            traceback.print_exc()
        console.failed(error)
        code = 2
    except usage.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = 2
    except usage.ClickException as error:
        console.failed(_usage_error(error))
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted; nothing was kept", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        code = _bug(error, console, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)  # the stages are removed on the way out


def _usage_error(error: usage.ClickException) -> EdgekitError:
    """Put click's words into the two lines that every error has."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "edgekit"
    fallback = f"{path} --help shows what there is"
    if isinstance(error, usage.NoSuchOption):
        names = [o for p in context.command.params for o in (*p.opts, *p.secondary_opts)] if context else []
        near = nearest(error.option_name, names)
        if error.option_name == "--prune":
            return EdgekitError(
                "--prune: structured pruning is not there yet",
                "--sparsity 0.5 sets single weights to zero: smaller when zipped, no faster",
            )
        return EdgekitError(f"no such option: {error.option_name}", f"did you mean {near}?" if near else fallback)
    message = error.format_message().rstrip(".")
    if isinstance(error, usage.MissingParameter) and error.param is not None:
        message = f"{error.param.make_metavar(context).strip('{}')} is missing" if context else message
        message = f"{path}: {message}"
    if message.startswith("No such command"):
        names = context.command.list_commands(context) if context else []
        typed = message.split("'")[1] if "'" in message else ""
        near = nearest(typed, names)
        message, fallback = f"no such command: {typed}", f"did you mean {near}?" if near else fallback
    return EdgekitError(message[:1].lower() + message[1:], fallback)


def _bug(error: Exception, console: Console, debug: bool) -> int:
    """Say that it is our fault, and where the traceback is."""
    text = traceback.format_exc()
    if debug:
        print(text, file=sys.stderr)
    with tempfile.NamedTemporaryFile("w", prefix="edgekit-", suffix=".txt", delete=False) as file:
        file.write(f"edgekit {__version__}\n{sys.argv}\n{text}")
    console.failed(
        EdgekitError(
            f"a bug in edgekit {__version__}: {type(error).__name__}: {error}".split("\n", 1)[0],
            f"the traceback is in {file.name}; please report it",
        )
    )
    return 3


if __name__ == "__main__":
    main()
