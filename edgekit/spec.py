"""Spec: a named frozen dataclass from which everything else about an op, a step or a command is read.

A field is declared once, with its default, help and bounds:

    @OPS.add
    class rotate(Op):
        \"\"\"Turn by a random angle.\"\"\"
        degrees: float = option(15.0, help="largest angle", ge=0, le=180)

and from that come the flag `--rotate 15`, the config key, `rotate 15 p=0.3` on a command line or in TOML, the bounds
and their error, the row in `edgekit ops` and in the README, the manifest entry and the contract tests.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import itertools
import math
import shlex
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, dataclass_transform

from edgekit.errors import EdgekitError


@dataclass(frozen=True)
class Bounds:
    """What a field accepts, and what it is for."""

    help: str
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()
    short: str = ""
    metavar: str = ""
    panel: str = ""
    path: bool = False
    hidden: bool = False

    def text(self) -> str:
        """Say the bounds in a few characters: `0..180`, `>= 1`, `a|b`, or nothing."""
        if self.choices:
            return "|".join(self.choices)
        if self.ge is not None and self.le is not None:
            return f"{self.ge:g}..{self.le:g}"
        if self.ge is not None:
            return f">= {self.ge:g}"
        return f"<= {self.le:g}" if self.le is not None else ""


def option(default: Any = dataclasses.MISSING, *, help: str, **bounds: Any) -> Any:
    """Declare a field of a Spec: its default, its help and what `Bounds` takes."""
    metadata = {"bounds": Bounds(help, **bounds)}
    return dataclasses.field(default=default, kw_only=True, metadata=metadata)


def same(other: type[Spec], name: str) -> Any:
    """Declare a field that another Spec has too, so that default, help and bounds stand once."""
    field = next(field for field in other.options() if field.name == name)
    return dataclasses.field(default=field.default, kw_only=True, metadata={"bounds": field.bounds})


@dataclass(frozen=True)
class Field:
    """One field of a Spec, ready to be shown, parsed and checked."""

    name: str
    type: Any
    default: Any
    bounds: Bounds

    @property
    def flag(self) -> str:
        """The name as it is typed: `max_pixels` is `max-pixels`."""
        return self.name.replace("_", "-")

    @property
    def base(self) -> Any:
        """The type without `| None`."""
        if isinstance(self.type, types.UnionType):
            return next(part for part in self.type.__args__ if part is not type(None))
        return self.type

    @property
    def repeated(self) -> bool:
        """Whether it holds several values of one kind (`tuple[str, ...]`)."""
        return typing.get_origin(self.base) is tuple

    @property
    def numeric(self) -> bool:
        """Whether it holds one number."""
        return self.base in (int, float)

    def check(self, value: Any, owner: str, origin: str = "") -> Any:
        """Turn text or a TOML value into this field's type, within its bounds; raise EdgekitError otherwise."""
        where = f"{origin}: " if origin else ""
        token = f"{where}{owner}: {self.flag}={_shown(value)}" if owner else f"{where}{self.flag}={_shown(value)}"
        if value is None and self.type is not self.base:
            return None
        if self.repeated:
            if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
                raise EdgekitError(f"{token} is not a list", f'write {self.flag} = ["...", "..."]')
            return tuple(str(part) if not isinstance(part, Mapping) else part for part in value)
        converted = self._convert(value, token)
        self._check_bounds(converted, token)
        return converted

    def _convert(self, value: Any, token: str) -> Any:
        kind = self.base
        if kind is bool:
            if isinstance(value, bool):
                return value
            words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False}
            words["0"] = False
            if str(value).lower() in words:
                return words[str(value).lower()]
            raise EdgekitError(f"{token} is neither true nor false", f"use {self.flag}=true or {self.flag}=false")
        if kind is str:
            if value == "" and self.bounds.path:
                raise EdgekitError(f"{token} is empty", f"give a path, or leave {self.flag} out")
            if isinstance(value, str):
                return value
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return str(value)
            if isinstance(value, Sequence):
                return ",".join(str(part) for part in value)
            raise EdgekitError(f"{token} is not text", f'write {self.flag} = "..."')
        if isinstance(value, bool):
            raise EdgekitError(f"{token} is not a number", f"use a number{self._range_hint()}")
        if kind is int and isinstance(value, int):
            return value
        try:
            if kind is int and isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
                return int(value)  # by way of a float, large seeds would become others
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise EdgekitError(f"{token} is not a number", f"use a number{self._range_hint()}") from None
        if not math.isfinite(number):
            raise EdgekitError(f"{token} is not a finite number", f"use a number{self._range_hint()}")
        if kind is int:
            if number != int(number):
                raise EdgekitError(f"{token} is not a whole number", f"use a whole number{self._range_hint()}")
            return int(number)
        return number

    def _check_bounds(self, value: Any, token: str) -> None:
        bounds = self.bounds
        if bounds.choices and value not in bounds.choices:
            near = nearest(str(value), bounds.choices)
            raise EdgekitError(
                f"{token} is not one of {', '.join(bounds.choices)}",
                f"did you mean {self.flag}={near}?" if near else f"use one of {', '.join(bounds.choices)}",
            )
        below = bounds.ge is not None and self.numeric and value < bounds.ge
        above = bounds.le is not None and self.numeric and value > bounds.le
        if below or above:
            limit = bounds.ge if below else bounds.le
            word = "below" if below else "above"
            raise EdgekitError(f"{token} is {word} {limit:g}", f"use a number{self._range_hint()}")

    def _range_hint(self) -> str:
        bounds = self.bounds
        if bounds.ge is not None and bounds.le is not None:
            return f" from {bounds.ge:g} to {bounds.le:g}"
        if bounds.ge is not None:
            return f" of at least {bounds.ge:g}"
        return f" of at most {bounds.le:g}" if bounds.le is not None else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Find the name most like `word`, or nothing near enough. A common beginning counts (as in Jaro-Winkler)."""
    typed = word.lower().lstrip("-")

    def likeness(name: str) -> float:
        other = name.lower().lstrip("-")
        prefix = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(typed, other, strict=False)))
        return difflib.SequenceMatcher(None, typed, other).ratio() + 0.1 * min(prefix, 4)

    best = max(names, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0.65 else None


class Spec:
    """A named bundle of plain, checked values.

    Subclasses are frozen dataclasses made by `Registry.add` (or `@spec`); their fields are declared with `option`.
    What `dataclass` would compile anew for each of them stands here once: there are a hundred, made at every start.
    """

    def __init__(self, **values: Any) -> None:
        """Take values by the names of their fields; the other fields are at their defaults."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = values.pop(field.name, field.default)
            if value is dataclasses.MISSING:
                raise TypeError(f"{type(self).__name__} needs {field.name}")
            self.__dict__[field.name] = value
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check what no single field can; raise EdgekitError."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse: what is named, shown and hashed by its values keeps them."""
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        """Refuse, likewise."""
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        """Whether it is of the same class, with the same values."""
        return self._values() == other._values() if type(self) is type(other) else NotImplemented  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        """Hash the values."""
        return hash(tuple(self._values().values()))

    def __repr__(self) -> str:
        """Show it as it is made in Python."""
        return f"{type(self).__qualname__}({', '.join(f'{k}={v!r}' for k, v in self._values().items())})"

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def spec_name(cls) -> str:
        """The name as it is typed."""
        return cls.__name__.replace("_", "-")

    @classmethod
    def help(cls) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]

    @classmethod
    def panel(cls) -> str:
        """The help panel: the module it lives in."""
        return cls.__module__.rsplit(".", 1)[-1].capitalize()

    @classmethod
    def options(cls) -> tuple[Field, ...]:
        """The fields, the class's own first, inherited ones after."""
        if cls not in _FIELDS:
            _FIELDS[cls] = _fields(cls)
        return _FIELDS[cls]

    @classmethod
    def flag_field(cls) -> Field | None:
        """The field that the flag's value fills: the first one, when it is a number."""
        fields = cls.options()
        own = fields[0] if fields and fields[0].name not in _inherited_names(cls) else None
        return own if own is not None and own.numeric else None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str = "") -> Self:
        """Make one from plain values; unknown keys are listed all at once, each with the nearest right name."""
        fields = {field.name: field for field in cls.options()}
        named = {key.replace("-", "_"): value for key, value in values.items() if key != "use"}
        unknown = [key for key in named if key not in fields]
        if unknown:
            where = f"{origin}: " if origin else ""
            raise EdgekitError(
                f"{where}{cls.spec_name()}: no such field: {', '.join(unknown)}",
                suggest(unknown, [field.flag for field in fields.values()]),
            )
        checked = {key: fields[key].check(value, cls.spec_name(), origin) for key, value in named.items()}
        return cls(**checked)

    def to_dict(self) -> dict[str, Any]:
        """Give the plain values back, with the name under `use`; `Registry.from_dict` takes it."""
        return {"use": self.spec_name()} | {field.name: getattr(self, field.name) for field in self.options()}

    def __str__(self) -> str:
        """Write it as it would be typed, without what is at its default."""
        flag = self.flag_field()
        words = [self.spec_name()]
        for field in self.options():
            value = getattr(self, field.name)
            if flag is not None and field.name == flag.name:
                words.append(_shown(value))
            elif value != field.default:
                words.append(f"{field.flag}={_shown(value)}")
        return " ".join(words)


_FIELDS: dict[type[Spec], tuple[Field, ...]] = {}  # they are asked for with every op of every variant


def _fields(cls: type[Spec]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(cls)
    inherited = _inherited_names(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    ordered = [f for f in fields if f.name not in inherited] + [f for f in fields if f.name in inherited]
    return tuple(
        Field(f.name, hints[f.name], None if f.default is dataclasses.MISSING else f.default, f.metadata["bounds"])
        for f in ordered
    )


def _inherited_names(cls: type[Spec]) -> set[str]:
    return {field.name for base in cls.__mro__[1:] for field in getattr(base, "__own_fields__", ())}


def suggest(unknown: Sequence[str], names: Sequence[str]) -> str:
    """Say for each unknown name the nearest right one, or list what there is."""
    pairs = [(word, nearest(word, names)) for word in unknown]
    hints = [f"{word} -> {near}" for word, near in pairs if near]
    if hints:
        return f"did you mean {', '.join(hints)}?"
    return f"there is {', '.join(names)}"


T = TypeVar("T")
S = TypeVar("S", bound=Spec)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def spec(cls: type[T]) -> type[T]:
    """Make a Spec subclass a dataclass and remember which fields are its own."""
    made = dataclass(init=False, repr=False, eq=False)(cls)
    own = set(inspect.get_annotations(cls))
    made.__own_fields__ = tuple(f for f in dataclasses.fields(made) if f.name in own)  # type: ignore[attr-defined, arg-type]
    return made


class Registry(Generic[S]):
    """All Specs of a kind, found in an explicit list of modules."""

    def __init__(self, kind: str, *modules: str) -> None:
        self.kind = kind
        self._modules = modules
        self._members: dict[str, type[S]] = {}
        self._loaded = False

    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
    def add(self, cls: type[T]) -> type[T]:
        """Register a class under its name; use as a decorator."""
        made = spec(cls)
        self._members[made.spec_name()] = made  # type: ignore[attr-defined, assignment]
        return made

    def _load(self) -> dict[str, type[S]]:
        if not self._loaded:
            for module in self._modules:
                importlib.import_module(module)
            self._loaded = True
            # Modules import one another; the order shown is that of the list, not of their imports.
            place = {module: position for position, module in enumerate(self._modules)}
            ordered = sorted(self._members.items(), key=lambda member: place.get(member[1].__module__, 0))
            self._members = dict(ordered)
        return self._members

    def __iter__(self) -> Iterator[type[S]]:
        return iter(self._load().values())

    def names(self) -> list[str]:
        """The names, in the order of the modules and of the classes in them."""
        return list(self._load())

    def get(self, name: str, origin: str = "") -> type[S]:
        """Find a class by the name a user typed; raise EdgekitError with the nearest right one."""
        found = self._load().get(name.replace("_", "-"))
        if found is None:
            where = f"{origin}: " if origin else ""
            near = nearest(name, self.names())
            raise EdgekitError(
                f"{where}no such {self.kind}: {name}",
                f"did you mean {near}?" if near else f"`edgekit {self.kind}s` lists them",
            )
        return found

    def parse(self, text: str, origin: str = "") -> S:
        """Read `rotate 15 p=0.3`: a name, the value of its first field when that is a number, then `key=value`."""
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise EdgekitError(f"{text!r} cannot be read: {error}", "close the quotes") from None
        if not words:
            raise EdgekitError(f"an empty {self.kind}", f"write a name, as `edgekit {self.kind}s` lists them")
        cls = self.get(words[0], origin)
        values: dict[str, Any] = {}
        flag = cls.flag_field()
        for position, word in enumerate(words[1:]):
            key, equals, value = word.partition("=")
            key = key.replace("-", "_")
            if not equals and position == 0 and flag is not None:
                key, value = flag.name, word
            elif not equals:
                fields = ", ".join(field.flag for field in cls.options())
                raise EdgekitError(f"{text!r}: {word!r} is not key=value", f"{words[0]} has the fields {fields}")
            if key in values:
                raise EdgekitError(f"{text!r}: {key.replace('_', '-')} is given twice", "leave one of them out")
            values[key] = value
        return cls.from_dict(values, origin)

    def from_dict(self, values: Mapping[str, Any], origin: str = "") -> S:
        """Read `{use = "rotate", degrees = 15}`."""
        if "use" not in values:
            raise EdgekitError(f"{origin}: {self.kind} without use", f'write {{use = "{self.names()[0]}", ...}}')
        return self.get(str(values["use"]), origin).from_dict(values, origin)

    def read(self, entry: str | Mapping[str, Any], origin: str = "") -> S:
        """Read either form."""
        return self.parse(entry, origin) if isinstance(entry, str) else self.from_dict(entry, origin)
