"""`edgekit ops`, `edgekit steps`, `edgekit config`: what there is, and what holds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from edgekit import config as loader
from edgekit.augment.op import OPS
from edgekit.augment.presets import PRESETS
from edgekit.augment.settings import TEXT_FILES, augment
from edgekit.augment.text.op import TEXT_OPS
from edgekit.bench.settings import bench, inspect
from edgekit.cli.console import WIDTH
from edgekit.compress.method import STEPS
from edgekit.compress.settings import compress
from edgekit.spec import Field, Registry, Spec

COMMANDS: dict[str, type[Spec]] = {"augment": augment, "compress": compress, "bench": bench, "inspect": inspect}


def ops(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
    presets: Annotated[bool, typer.Option("--presets", help="list the presets instead, as the ops they are")] = False,
) -> None:
    """List the ops of `edgekit augment`, with defaults and bounds: those of pictures, then those of text files."""
    if presets and as_json:
        print(json.dumps({"schema": "edgekit.presets/1", "presets": PRESETS}, indent=2))
        return
    if presets:
        for name, entries in PRESETS.items():
            print(f"{name:<11}{', '.join(entries)}")
        return
    _list(OPS, as_json, TEXT_OPS)


def steps(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """List the steps of `edgekit compress`, with defaults and bounds."""
    _list(STEPS, as_json)


def _list(registry: Registry[Any], as_json: bool, texts: Registry[Any] | None = None) -> None:
    name = f"{registry.kind}s"
    if as_json:
        more = {} if texts is None else {f"text_{name}": describe(texts)}
        print(json.dumps({"schema": f"edgekit.{name}/1", name: describe(registry), **more}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else WIDTH)
    for listed in (registry, *([texts] if texts is not None else [])):
        if listed is texts:
            console.print(f"\n{TEXT_FILES} (.csv, .tsv, .jsonl, .txt)")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for heading in (registry.kind, "what it does", "fields: default [bounds]"):
            table.add_column(Text(heading), overflow="fold")
        for cls in listed:
            fields = "\n".join(field_text(f) for f in cls.options()) or "-"
            table.add_row(*(Text(cell) for cell in (cls.spec_name(), cls.help(), fields)))
        console.print(table)


def field_text(field: Field) -> str:
    """Say a field in a few characters: `degrees=15 [0..180]`."""
    default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    bounds = field.bounds.text()
    return f"{field.flag}={default}" + (f" [{bounds}]" if bounds else "")


def describe(registry: Registry[Any]) -> list[dict[str, Any]]:
    """Give every op or step as plain values."""
    return [
        {
            "name": cls.spec_name(),
            "help": cls.help(),
            "flag_takes": cls.flag_field().name if cls.flag_field() else None,
            "fields": [
                {"name": f.flag, "default": f.default, "help": f.bounds.help, "bounds": f.bounds.text()}
                for f in cls.options()
            ],
        }
        for cls in registry
    ]


def config(
    path: Annotated[str | None, typer.Option("--config", help="configuration file", metavar="FILE")] = None,
    no_config: Annotated[bool, typer.Option("--no-config", help="read no configuration file")] = False,
) -> None:
    """Print the effective configuration as TOML, with the origin of every value."""
    loaded = loader.load(path, search=not no_config)
    loader.check_keys(loaded, COMMANDS)
    lines = [f"# {loaded.path}" if loaded.path else "# no configuration file"]
    for name, cls in COMMANDS.items():
        effective = loader.resolve(cls, {}, loaded)
        lines += ["", f"[{name}]"]
        for field in cls.options():
            value = getattr(effective.settings, field.name)
            text = f"{field.flag} = {_toml(value)}" if value is not None else f"# {field.flag} is not set"
            lines.append(f"{text:<40} # {effective.origins[field.name]}" if value is not None else text)
    gates = loader.gates(loaded)
    if gates:
        lines += ["", "[gate]"]
        for gate in gates:
            cut = next(i for i, c in enumerate(gate) if c in "<>=!")
            lines.append(f"{f'{gate[:cut]} = {_toml(gate[cut:])}':<40} # {loaded.name}")
    print("\n".join(lines))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    return json.dumps(value)
