"""The one configuration loader: command line > environment > file > defaults, with the origin of every value.

The file is `--config PATH`, else the nearest `edgekit.toml`, else the nearest `pyproject.toml` with `[tool.edgekit]`;
one file, never merged with another. Its paths are relative to it. Its tables are the commands (`[augment]`,
`[compress]`) and `[gate]`; a key above the tables holds for every command that has it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgekit.errors import EdgekitError
from edgekit.spec import Field, Spec, nearest

S = TypeVar("S", bound=Spec)
FILE_NAME = "edgekit.toml"
PROJECT_NAME = "pyproject.toml"
PREFIX = "EDGEKIT_"


@dataclass(frozen=True)
class Loaded:
    """A configuration file, read: where it is and its tables (empty when there is none)."""

    path: Path | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that errors and origins show."""
        return self.path.name if self.path is not None else ""


@dataclass(frozen=True)
class Effective(Generic[S]):
    """The settings a command runs with, and where each value came from."""

    settings: S
    origins: Mapping[str, str]

    def given(self, name: str) -> bool:
        """Whether the user chose this value anywhere."""
        return self.origins[name] != "default"


def load(path: str | None, *, search: bool = True, start: Path | None = None) -> Loaded:
    """Read the configuration file that applies; raise EdgekitError when it is missing or not TOML."""
    if path == "":
        raise EdgekitError("--config is empty", "give a file, or --no-config")
    if path is None and search:
        path = os.environ.get(f"{PREFIX}CONFIG") or None
    if path is not None:
        chosen = Path(path)
        if not chosen.is_file():
            raise EdgekitError(f"{path}: no such configuration file", "give an existing one, or --no-config")
        tables = _read(chosen)
        return Loaded(chosen, _own_tables(tables, chosen))
    if search:
        for folder in [start or Path.cwd(), *(start or Path.cwd()).parents]:
            if _is_file(folder / FILE_NAME):
                return Loaded(folder / FILE_NAME, _read(folder / FILE_NAME))
            project = folder / PROJECT_NAME
            if _is_file(project):
                tables = _read(project)
                if isinstance(tables.get("tool"), Mapping) and "edgekit" in tables["tool"]:
                    return Loaded(project, _own_tables(tables, project))
    return Loaded()


def cache_folder() -> Path | None:
    """Give the folder that computed things are kept in: $EDGEKIT_CACHE (`off`: none), else the user's cache folder."""
    given = os.environ.get(f"{PREFIX}CACHE", "")
    if given.lower() == "off":
        return None
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME", "")
    if home and Path(home).is_absolute():  # the XDG base directory specification: relative ones are to be ignored
        return Path(home) / "edgekit"
    try:
        return Path.home() / ".cache" / "edgekit"
    except RuntimeError:  # nobody's home
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder above that may not be looked into
        return False


def _own_tables(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    if path.name != PROJECT_NAME:
        return tables
    tool = tables.get("tool", {})
    own = tool.get("edgekit", {}) if isinstance(tool, Mapping) else {}
    if not isinstance(own, Mapping):
        raise EdgekitError(f"{path}: tool.edgekit is not a table", "write [tool.edgekit] and its keys below")
    return dict(own)


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # here, because most runs have no file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgekitError(f"{path}: not valid TOML: {error}", "mend the line it names, or use --no-config") from None
    except OSError as error:
        raise EdgekitError(
            f"{path}: cannot be read: {error.strerror}", "mend its permissions, or use --no-config"
        ) from None


def check_keys(loaded: Loaded, commands: Mapping[str, type[Spec]]) -> None:
    """Raise EdgekitError listing every unknown key of the file at once, each with the nearest right one."""
    shared = {f.flag for cls in commands.values() for f in cls.options()}
    unknown: list[tuple[str, str | None]] = []
    _check_twice(loaded.tables, f"{loaded.name}: ")
    for key, value in loaded.tables.items():
        if key in commands:
            names = [f.flag for f in commands[key].options()]
            if not isinstance(value, Mapping):
                raise EdgekitError(f"{loaded.name}: {key} is not a table", f"write [{key}] and its keys below")
            _check_twice(value, f"{loaded.name}: {key}.")
            for inner in value:
                if inner.replace("_", "-") not in names:
                    near = nearest(inner, names)
                    unknown.append((f"{key}.{inner}", near and f"{key}.{near}"))
        elif key != "gate" and key.replace("_", "-") not in shared:
            unknown.append((key, nearest(key, [*commands, "gate", *shared])))
    if unknown:
        listed = ", ".join(key for key, _ in unknown)
        hints = [f"{key} -> {near}" for key, near in unknown if near]
        raise EdgekitError(
            f"{loaded.name}: no such key: {listed}",
            f"did you mean {', '.join(hints)}?" if hints else "`edgekit config` prints every key there is",
        )


def _check_twice(table: Mapping[str, Any], where: str) -> None:
    for key in table:
        if "_" in key and key.replace("_", "-") in table:
            other = key.replace("_", "-")
            raise EdgekitError(f"{where}{other} is given twice, as {other} and {key}", "leave one of them out")


def gates(loaded: Loaded) -> tuple[str, ...]:
    """Read `[gate]`: `accuracy.drop = "<=0.01"`, as the strings that --gate takes."""
    table = loaded.tables.get("gate", {})
    if not isinstance(table, Mapping):
        raise EdgekitError(f"{loaded.name}: gate is not a table", '[gate] holds lines such as accuracy.drop = "<=0.01"')
    return tuple(_flatten(table, loaded.name))


def _flatten(table: Mapping[str, Any], origin: str, prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _flatten(value, origin, f"{prefix}{key}.")
        elif isinstance(value, str):
            lines.append(f"{prefix}{key}{value}")
        else:
            raise EdgekitError(f"{origin}: gate.{prefix}{key} is not text", f'write {prefix}{key} = "<=0.01"')
    return lines


def resolve(cls: type[S], typed: Mapping[str, Any], loaded: Loaded) -> Effective[S]:
    """Put the values together for one command. `typed` holds what the command line gave (None: not given)."""
    command = cls.spec_name()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in cls.options():
        value, origin = _find(option, command, typed, loaded)
        if origin == "default":
            values[option.name] = option.default
        else:
            owner = "" if origin == "command line" else command
            checked = option.check(value, owner, "" if origin == "command line" else origin)
            values[option.name] = _relative(option, checked, loaded) if origin == loaded.name else checked
        origins[option.name] = origin
    _check_environment(cls)
    return Effective(cls(**values), origins)


def _find(option: Field, command: str, typed: Mapping[str, Any], loaded: Loaded) -> tuple[Any, str]:
    if typed.get(option.name) not in (None, (), []):
        return typed[option.name], "command line"
    upper = option.name.upper()
    for variable in (f"{PREFIX}{command.upper()}_{upper}", f"{PREFIX}{upper}"):
        text = os.environ.get(variable)
        if text is not None and text != "":
            parts = [part.strip() for part in text.split(";") if part.strip()]
            return (parts if option.repeated else text), variable
    for table in (loaded.tables.get(command, {}), loaded.tables):
        for key in (option.flag, option.name):
            gate = table is loaded.tables and key == "gate"  # the table [gate], which `gates` reads
            if key in table and not gate:
                return table[key], loaded.name
    return None, "default"


def _check_environment(cls: type[Spec]) -> None:
    prefix = f"{PREFIX}{cls.spec_name().upper()}_"
    names = {f.name.upper() for f in cls.options()}
    unknown = sorted(v for v in os.environ if v.startswith(prefix) and v.removeprefix(prefix) not in names)
    if unknown:
        near = nearest(unknown[0].removeprefix(prefix), [name.lower() for name in names])
        raise EdgekitError(
            f"the environment sets what edgekit does not know: {', '.join(unknown)}",
            f"did you mean {prefix}{near.upper()}?" if near else "unset it",
        )


def _relative(option: Field, value: Any, loaded: Loaded) -> Any:
    if not option.bounds.path or value is None or loaded.path is None:
        return value
    folder = loaded.path.parent
    if isinstance(value, tuple):
        return tuple(str(folder / part) for part in value)
    return str(folder / value)
