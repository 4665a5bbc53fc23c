"""The command line: the only home of typer, print and exit."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer._click import exceptions as usage
from typer.core import TyperCommand, TyperGroup

from edgekit import __version__
from edgekit.cli.console import Console, failure
from edgekit.errors import EdgekitError, StoppedError
from edgekit.words import printable

if TYPE_CHECKING:
    from edgekit.cli.signature import Typed

INTERRUPTED = 130
NOTHING_KEPT = EdgekitError("interrupted; nothing was kept")
EPILOG = "exit codes: 0 done; 1 ran and the answer is no; 2 could not run; 3 a bug; 130 interrupted"

AUGMENT_EXAMPLES = """

Examples:

  edgekit augment ./imgs --flip --rotate 15

  edgekit augment ./imgs --flip --op "rotate 10 p=0.5 border=constant" -n 8 --out ./more

  edgekit augment reviews.csv --text-column review --flip

  edgekit augment --replay imgs-augmented/manifest.jsonl:17
"""

COMPRESS_EXAMPLES = """

Examples:

  edgekit compress model.onnx --int8

  edgekit compress model.onnx --int8 --calib ./train --data ./val --gate 'accuracy.drop<=0.01'

  edgekit compress model.onnx --max-drop 0.01 --max-ms 8 --max-mb 3
"""

BENCH_EXAMPLES = """

Examples:

  edgekit bench model.onnx model.int8.onnx --data ./val

  edgekit bench model.onnx model.int8.onnx --against report.json
"""

INSPECT_EXAMPLES = """

Examples:

  edgekit inspect model.onnx

  edgekit inspect model.onnx --top 50 --json

  edgekit inspect ./imgs --preview sheet.png
"""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"edgekit {__version__}")
        raise typer.Exit()


class Group(TyperGroup):
    """The top level: it knows what its commands are called, and makes the one that is asked for."""

    def __init__(self, **attributes: Any) -> None:
        """Put in the commands of MENU, without their flags."""
        super().__init__(**attributes)
        for name, (brief, _) in MENU.items():
            self.add_command(TyperCommand(name, short_help=brief))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command by its name; only then load what it can be told, which takes time."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, _whole(name, self.rich_markup_mode) if name else found, rest


def _run_augment(source: str, typed: Typed) -> int:
    if typed.values["replay"] is not None:
        from edgekit.cli.replay import run_replay  # each verb loads its own rooms only

        return run_replay(source, typed)
    from edgekit.augment.text.rows import is_text

    if is_text(source):
        from edgekit.cli.text import run_text

        return run_text(source, typed)
    from edgekit.cli.augment import run_augment

    return run_augment(source, typed)


def _run_verify(out: str, typed: Typed) -> int:
    from edgekit.cli.verify import run_verify

    return run_verify(out, typed)


def _run_compress(model: str, typed: Typed) -> int:
    from edgekit.cli.compress import run_compress

    return run_compress(model, typed)


def _run_bench(models: list[str], typed: Typed) -> int:
    from edgekit.cli.bench import run_bench

    return run_bench(models, typed)


def _run_inspect(target: str, typed: Typed) -> int:
    from edgekit.cli.inspect import run_inspect

    return run_inspect(target, typed)


Made = tuple[Callable[..., None], str | None]  # the function of a command, and its help when that is not the docstring


def _augment() -> Made:
    from edgekit.augment.op import OPS
    from edgekit.augment.settings import augment
    from edgekit.augment.text.op import TEXT_OPS
    from edgekit.cli.signature import command

    source = ("src", "folder of pictures, flat or with one folder a class; or a .csv, .tsv, .jsonl or .txt file")
    made = command(augment, OPS, source, _run_augment, unless="replay", more=TEXT_OPS)
    return made, augment.help() + AUGMENT_EXAMPLES


def _verify() -> Made:
    from edgekit.augment.settings import verify
    from edgekit.cli.signature import command

    return command(verify, None, ("out", "folder that augment wrote"), _run_verify), verify.help()


def _compress() -> Made:
    from edgekit.cli.signature import command
    from edgekit.compress.method import STEPS
    from edgekit.compress.settings import compress

    return command(compress, STEPS, ("model", "the ONNX model"), _run_compress), compress.help() + COMPRESS_EXAMPLES


def _bench() -> Made:
    from edgekit.bench.settings import bench
    from edgekit.cli.signature import command

    models = ("models", "the ONNX models; the first is what the others are compared with")
    return command(bench, None, models, _run_bench, many=True), bench.help() + BENCH_EXAMPLES


def _inspect() -> Made:
    from edgekit.bench.settings import inspect
    from edgekit.cli.signature import command

    target = ("target", "an ONNX model, or a folder of pictures")
    return command(inspect, None, target, _run_inspect), inspect.help() + INSPECT_EXAMPLES


def _listing(name: str) -> Made:
    from edgekit.cli import listing

    return getattr(listing, name), None


MENU: dict[str, tuple[str, Callable[[], Made]]] = {
    "augment": ("a larger folder of pictures or text file, with labels and a manifest", _augment),
    "verify": ("whether a folder that augment wrote is still as it was written", _verify),
    "compress": ("a smaller, faster ONNX model, measured against the old one", _compress),
    "bench": ("one model measured on this machine, or several side by side", _bench),
    "inspect": ("what a model is made of, or what a folder of pictures holds", _inspect),
    "ops": ("the ops of augment", partial(_listing, "ops")),
    "steps": ("the steps of compress", partial(_listing, "steps")),
    "config": ("the effective configuration", partial(_listing, "config")),
}


def _whole(name: str, markup: Any) -> Any:
    """Make one command, with every flag."""
    from edgekit.cli.signature import OrderedCommand

    brief, make = MENU[name]
    function, help = make()
    alone = typer.Typer(add_completion=False, rich_markup_mode=markup)
    alone.command(name, cls=OrderedCommand if help else None, help=help, short_help=brief)(function)
    return typer.main.get_command(alone)


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

    return app


def main(signals: Collection[int] | None = None) -> NoReturn:
    """Run the command line and exit with its code; `signals` are those to be blocked from now on."""
    _open_streams()
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not with nohup, nor in a script's background
        signal.signal(signal.SIGINT, _interrupted)
    arguments = sys.argv[1:]
    console = Console(json="--json" in arguments)
    try:
        code = _run(arguments, console, "--debug" in arguments, signals)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _silence(141)
    except OSError as error:  # only what is printed gets here
        with contextlib.suppress(OSError):
            Console().failed(EdgekitError(f"the answer cannot be printed: {error.strerror}", "look at its > or |"))
        code = _silence(2)
    if code == INTERRUPTED:  # while it ends, the interpreter gives Ctrl-C back to the system
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        exec("")  # forgets a Ctrl-C that hit a dataclass while it was made, else it would also end the process
    sys.exit(code)


def _silence(code: int) -> int:
    """Turn both streams to nowhere: what they still hold would fail once more at the exit."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _run(arguments: list[str], console: Console, debug: bool, signals: Collection[int] | None) -> int:
    """Run the command line; give its exit code, and say every failure."""
    try:
        command_line = typer.main.get_command(build())
        if signals is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        code = command_line.main(arguments, prog_name="edgekit", standalone_mode=False)
        if code == INTERRUPTED:  # typer has its own way with Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except StoppedError as error:
        return _stopped(console, error)
    except EdgekitError as error:
        if debug:
            traceback.print_exc()
        console.failed(error)
    except usage.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
    except usage.ClickException as error:
        console.failed(_usage_error(error))
    except (typer.Abort, KeyboardInterrupt):
        return _stopped(console)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer exits with 1 then, which means "no"
            raise end.__context__ from None
        raise
    except BrokenPipeError:
        raise
    except OSError as error:  # the system refused: not a bug, but no place above knew what to say about it
        if debug:
            traceback.print_exc()
        console.failed(_refused(error))
    except Exception as error:
        # Python wraps what hits a class while it is made (RuntimeError) or a module while it is loaded.
        return _stopped(console) if _pressed > -math.inf else _bug(error, console, debug)
    return 2


def _stopped(console: Console, error: EdgekitError = NOTHING_KEPT) -> int:
    """Say that Ctrl-C was obeyed, and what is left."""
    if console.json:
        console.document(failure(error, INTERRUPTED))
    print("\n hint: ".join(printable(text) for text in (error.message, error.hint) if text), file=sys.stderr)
    return INTERRUPTED


def _open_streams() -> None:
    """Open what was closed (`edgekit ... >&-`), or the next file that is opened would be taken for it.

    What a stream's encoding does not have is written as an escape.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115, PTH123 (open as long as the process runs)
        stream = getattr(sys, name)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refused(error: OSError) -> EdgekitError:
    try:
        Path.cwd()
    except OSError:
        return EdgekitError("the folder you are in is gone, or may not be read", "cd to another one")
    name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return EdgekitError(
        f"{name}{error.strerror or error}", "mend that and run it again; --debug shows where it was met"
    )


_pressed = -math.inf  # when Ctrl-C was last obeyed


def _interrupted(number: int, frame: Any) -> None:
    """Obey Ctrl-C, but not a second one at once: it would cut off the cleaning up."""
    global _pressed
    now = time.monotonic()
    if now - _pressed > 2.0:
        _pressed = now
        raise KeyboardInterrupt


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)  # stages are removed on the way out, or kept for the next run


def _usage_error(error: usage.ClickException) -> EdgekitError:
    """Put click's words into the two lines that every error has."""
    from edgekit.spec import nearest

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "edgekit"
    fallback = f"{path} --help shows what there is"
    if isinstance(error, usage.NoSuchOption):
        names = [o for p in context.command.params for o in (*p.opts, *p.secondary_opts)] if context else []
        near = nearest(error.option_name, names)
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
    import tempfile

    text = traceback.format_exc()
    if debug:
        print(text, file=sys.stderr)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="edgekit-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"edgekit {__version__}\n{sys.argv}\n{text}")
        hint = f"the traceback is in {file.name}; please report it"
    except OSError:
        hint = "--debug shows the traceback; please report it"
    what = f"a bug in edgekit {__version__}: {type(error).__name__}: {error}".split("\n", 1)[0]
    console.failed(EdgekitError(what, hint), 3)
    return 3
