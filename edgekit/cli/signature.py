"""A command's flags, built from its settings and the registry of its ops or steps; and the order they were typed in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer._click.exceptions import MissingParameter, UsageError
from typer.core import TyperCommand

from edgekit.errors import EdgekitError
from edgekit.spec import Field, Registry, Spec, option, spec


@spec
class common(Spec):
    """The flags that every command has."""

    config: str | None = option(None, help="configuration file; the nearest edgekit.toml if not given", metavar="FILE")
    no_config: bool = option(False, help="read no configuration file")
    json: bool = option(False, help="print one JSON document on stdout, and nothing else there")
    quiet: bool = option(False, help="print the answer and errors only", short="-q")
    verbose: bool = option(False, help="say more", short="-v")
    debug: bool = option(False, help="show the traceback of an error")


@dataclass(frozen=True)
class Typed:
    """What was typed: the values of the settings, and the ops or steps in their order."""

    values: dict[str, Any]
    recipe: tuple[str, ...]
    common: common


class OrderedCommand(TyperCommand):
    """A command that remembers the order of its options; option callbacks lose it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what the parser knows about the order, then parse as always."""
        try:
            values, _, order = self.make_parser(ctx).parse_args(list(args))
        except UsageError as error:
            error.ctx = error.ctx or ctx
            raise
        taken: dict[str, int] = {}
        typed: list[tuple[str, Any]] = []
        for parameter in order:
            name = parameter.name or ""
            value = values.get(name)
            if isinstance(value, list):
                position = taken.get(name, 0)
                taken[name] = position + 1
                value = value[position]
            typed.append((name, value))
        ctx.meta["edgekit.order"] = typed
        return super().parse_args(ctx, args)


def command(
    settings: type[Spec],
    registry: Registry[Any] | None,
    positional: tuple[str, str],
    run: Callable[[Any, Typed], int],
    *,
    many: bool = False,
    unless: str = "",
    more: Registry[Any] | None = None,
) -> Callable[..., None]:
    """Make the function whose signature typer reads: positional, the registry's flags, the settings, the common ones.

    `positional` is its name and help; with `many` it takes one or more values, and it may be left out (None) when the
    setting `unless` is given. `more`: ops of another kind of input; one that has a name in both is one flag. `run` gets
    its value (a list with `many`) and what was typed, and gives the exit code.
    """
    others = {cls.spec_name(): cls for cls in more or ()}
    flags = [(cls, others.pop(cls.spec_name(), None)) for cls in registry or ()]
    flags += [(cls, None) for cls in others.values()]
    members = [cls for cls, _ in flags]
    general = f"{registry.kind}s" if registry is not None else ""
    parameters = [_positional(*positional, list[str] if many else str | None if unless else str)]
    parameters += [_recipe_flag(cls, twin) for cls, twin in flags]
    parameters += [_setting(f, flag=f.flag[:-1] if f.name == general else f.flag) for f in settings.options()]
    parameters += [_setting(f, panel="Common") for f in common.options()]

    def function(ctx: typer.Context, **given: Any) -> None:
        names = {cls.spec_name().replace("-", "_"): cls for cls in members}
        recipe = _recipe(ctx.meta["edgekit.order"], names, general)
        values = {f.name: given[f.name] for f in settings.options()}
        if general:
            values[general] = recipe or None
        if given[positional[0]] is None and given[unless] is None:
            raise MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == positional[0]))
        chosen = common(**{f.name: _default(given[f.name], f.default) for f in common.options()})
        raise typer.Exit(run(given[positional[0]], Typed(values, recipe, chosen)))

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    function.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in [context, *parameters]}
    return function


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _recipe(order: Sequence[tuple[str, Any]], names: dict[str, type[Spec]], general: str) -> tuple[str, ...]:
    """Write every flag of the registry in its general form, in the order typed."""
    typed: list[str] = []
    for name, value in order:
        if name == general:
            typed.append(value)
        elif name.startswith("use_") and name[4:] in names:
            cls = names[name[4:]]
            field = cls.flag_field()
            if field is not None and not value.strip():
                raise EdgekitError(f"--{cls.spec_name()} is empty", f"give its {field.flag}")
            typed.append(f"{cls.spec_name()} {value}" if field is not None else cls.spec_name())
    return tuple(typed)


def _positional(name: str, help: str, kind: Any) -> inspect.Parameter:
    metavar = f"{name.upper().removesuffix('S')}..." if kind == list[str] else name.upper()
    annotation = Annotated[kind, typer.Argument(help=help, metavar=metavar, show_default=False)]
    default = inspect.Parameter.empty if kind in (str, list[str]) else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _recipe_flag(cls: type[Spec], twin: type[Spec] | None = None) -> inspect.Parameter:
    """The flag of an op or step: `--rotate 15` where its first field is a number, else the switch `--flip`."""
    field = cls.flag_field()
    name = f"use_{cls.spec_name().replace('-', '_')}"
    text = cls.help() + ("" if twin is None else f" {twin.panel()}: {twin.help()}")
    flag = f"--{cls.spec_name()}"
    if field is None:
        info = typer.Option(flag, help=text, rich_help_panel=cls.panel(), show_default=False)
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, info])
    metavar = field.name.upper()
    text = f"{text} [{field.bounds.text()}]"
    info = typer.Option(flag, help=text, metavar=metavar, rich_help_panel=cls.panel(), show_default=False)
    annotation = Annotated[list[str] | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _setting(field: Field, *, flag: str = "", panel: str = "") -> inspect.Parameter:
    """The flag of a setting. Values stay text: `config.resolve` checks them like the file's and the environment's."""
    flag = flag or field.flag
    bounds = field.bounds
    names = [f"--{flag}", *([bounds.short] if bounds.short else [])]
    info: Any
    kind: Any
    if field.base is bool:
        names = [f"--{flag}/--no-{flag}", *names[1:]] if field.default else names
        kind = bool | None
    else:
        kind = list[str] | None if field.repeated else str | None
    info = typer.Option(
        *names,
        help=_help(field),
        metavar=_metavar(field),
        rich_help_panel=panel or bounds.panel or "Options",
        show_default=False,
        hidden=bounds.hidden,
    )
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info])


def _metavar(field: Field) -> str | None:
    if field.base is bool:
        return None
    return field.bounds.metavar or ("|".join(field.bounds.choices) if field.bounds.choices else field.name.upper())


def _help(field: Field) -> str:
    facts = []
    if field.numeric and field.bounds.text():
        facts.append(field.bounds.text())
    if field.default not in (None, (), False, True):
        facts.append(f"default {field.default:,}" if isinstance(field.default, int) else f"default {field.default}")
    if field.default is True:
        facts.append("default")
    return field.bounds.help + (f" [{'; '.join(facts)}]" if facts else "")
