"""As much of YAML as data set files use: mappings, lists and texts, in block and flow style; no library for it.

Scalars stay texts, whatever they look like; nothing is None. Anchors, aliases, tags and complex keys are refused. The
grammar is that of yaml.org/spec/1.2.2, chapters 6 to 8.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

DEEPEST = 20  # levels of nesting

# A quote opens a scalar at its beginning only: `man's hat` has none.
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\""
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
_PLAIN_KEY = re.compile(rf"(?P<key>{_QUOTED}|[^\s\[\]{{}}'\"#&*!|>%@`,?-][^#]*?|[-?][^\s#][^#]*?)\s*:(?=\s|$)\s*")
_COLON = r":(?=[\s,\[\]{}]|$)"  # one that stands behind a key
_FLOW_TOKEN = re.compile(rf"\s*(?P<token>{_QUOTED}|[\[\]{{}},]|{_COLON}|(?:(?!{_COLON})[^\[\]{{}},])+)")
_BARE = re.compile(r"[A-Za-z_./][\w ./+-]*")
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "e": "\x1b", "a": "\a", "v": "\v"}


class YamlError(ValueError):
    """Refuse a text as YAML, or as the part of it that is read here."""


@dataclass
class _Line:
    indent: int
    text: str


def parse(text: str) -> Any:
    """Parse a document to dicts (keys are texts), lists, texts and None; raise YamlError when it cannot be."""
    lines = []
    for raw in text.removeprefix("\ufeff").splitlines():
        if raw.startswith(("---", "%", "...")) and not raw[3:].strip():
            continue
        bare = raw.lstrip(" ")
        lines.append(_Line(len(raw) - len(bare), bare.rstrip()))
    reader = _Reader(lines)
    found = reader.block(0) if reader.peek() is not None else None
    if reader.peek() is not None:
        raise YamlError("a line that belongs to nothing")
    return found


class _Reader:
    """Walks the lines; `block` reads everything at one indentation."""

    def __init__(self, lines: list[_Line]) -> None:
        self.lines = lines
        self.at = 0
        self.depth = 0

    def peek(self) -> _Line | None:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.text and not line.text.startswith("#"):
                if line.text.startswith("\t"):
                    raise YamlError("a tab as indentation")
                return line
            self.at += 1
        return None

    def block(self, least: int) -> Any:
        line = self.peek()
        if line is None or line.indent < least:
            return None
        self.depth += 1
        if self.depth > DEEPEST:
            raise YamlError("nested too deep")
        if _is_item(line.text):
            found: Any = self._sequence(line.indent)
        elif _PLAIN_KEY.match(line.text):
            found = self._mapping(line.indent)
        else:
            self.at += 1
            found = self._value(line.text, line.indent - 1)
        self.depth -= 1
        return found

    def _sequence(self, indent: int) -> list[Any]:
        items = []
        while (line := self.peek()) is not None and line.indent == indent and _is_item(line.text):
            rest = line.text[1:].lstrip()
            if rest and not rest.startswith("#") and (_PLAIN_KEY.match(rest) or _is_item(rest)):
                # A mapping or a list that begins on the item's own line.
                self.lines[self.at] = _Line(indent + len(line.text) - len(rest), rest)
                items.append(self.block(indent + 1))
                continue
            self.at += 1
            items.append(self._value(rest, indent))
        return items

    def _mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (line := self.peek()) is not None and line.indent == indent:
            match = _PLAIN_KEY.match(line.text)
            if match is None:
                if _is_item(line.text):
                    break
                raise YamlError(f"no key: {line.text[:40]}")
            self.at += 1
            rest = line.text[match.end() :]
            after = self.peek() if not _without_comment(rest) else None
            if after is not None and after.indent == indent and _is_item(after.text):
                found[_scalar(match["key"]) or ""] = self._sequence(indent)
            else:
                found[_scalar(match["key"]) or ""] = self._value(rest, indent)
        return found

    def _value(self, rest: str, indent: int) -> Any:
        """Read what stands behind a key or a dash, on its line or on deeper ones."""
        if rest[:1] in ("[", "{"):
            return self._flow(rest)
        bare = _without_comment(rest)
        if not bare:
            return self.block(indent + 1)
        if re.fullmatch(r"[|>][-+0-9]*", bare):
            return self._literal(indent)
        if bare[:1] in "&*!@`%":
            raise YamlError(f"not read here: {bare[:40]}")
        following = self.peek()
        while following is not None and following.indent > indent and bare[:1] not in "'\"":
            bare += " " + _without_comment(following.text)
            self.at += 1
            following = self.peek()
        return _scalar(bare)

    def _literal(self, indent: int) -> str:
        taken = []
        while self.at < len(self.lines) and (self.lines[self.at].indent > indent or not self.lines[self.at].text):
            taken.append(self.lines[self.at].text)
            self.at += 1
        return "\n".join(taken)

    def _flow(self, text: str) -> Any:
        tokens = _tokens(text)
        while not _is_closed(tokens):
            if self.at == len(self.lines):
                raise YamlError("brackets that are not closed")
            tokens += _tokens(self.lines[self.at].text)
            self.at += 1
        found, end = _flow_value(tokens, 0, 0)
        if end != len(tokens):
            raise YamlError("something behind a closed bracket")
        return found


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _without_comment(text: str) -> str:
    quoted = re.match(_QUOTED, text)
    if quoted is not None:
        return quoted[0] if not _COMMENT.sub("", text[quoted.end() :]).strip() else text
    return _COMMENT.sub("", text).strip()


def _scalar(text: str) -> str | None:
    text = text.strip()
    if text[:1] == "'" and text[-1:] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text[:1] == '"' and text[-1:] == '"' and len(text) > 1:
        return _unescaped(text[1:-1])
    return None if text in ("", "~", "null") else text


def _unescaped(text: str) -> str:
    def letter(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        return chr(int(code, 16)) if code else _ESCAPES.get(match[4], match[4])

    return re.sub(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U(000[0-9A-Fa-f]{5})|(.))", letter, text, flags=re.DOTALL)


# ---- flow style


def _tokens(text: str) -> list[str]:
    """Split a line of flow style; comments are left out."""
    tokens, at = [], 0
    while at < len(text):
        rest = text[at:].lstrip()
        if not rest or (rest.startswith("#") and (at == 0 or text[at].isspace())):
            break
        match = _FLOW_TOKEN.match(text, at)
        if match is None:
            raise YamlError(f"not read here: {rest[:40]}")
        token, at = match["token"], match.end()
        if token[0] not in "'\"" and (note := re.search(r"\s#", token)) is not None:
            if token := token[: note.start()].strip():
                tokens.append(token)
            break
        tokens.append(token.strip() if token[0] not in "'\"" else token)
    return [token for token in tokens if token]


def _is_closed(tokens: list[str]) -> bool:
    return sum(token in ("[", "{") for token in tokens) <= sum(token in ("]", "}") for token in tokens)


def _flow_value(tokens: list[str], at: int, depth: int) -> tuple[Any, int]:
    if at >= len(tokens) or depth > DEEPEST:
        raise YamlError("brackets that do not fit")
    if tokens[at] == "[":
        return _flow_list(tokens, at + 1, depth)
    if tokens[at] == "{":
        return _flow_mapping(tokens, at + 1, depth)
    if tokens[at][0] in "]},&*!":
        raise YamlError(f"not read here: {tokens[at][:40]}")
    return _scalar(tokens[at]), at + 1


def _flow_list(tokens: list[str], at: int, depth: int) -> tuple[list[Any], int]:
    items = []
    while at < len(tokens) and tokens[at] != "]":
        value, at = _flow_value(tokens, at, depth + 1)
        items.append(value)
        at = _after_comma(tokens, at, "]")
    return items, at + 1


def _flow_mapping(tokens: list[str], at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while at < len(tokens) and tokens[at] != "}":
        key, at = _flow_value(tokens, at, depth + 1)
        if not isinstance(key, str):
            raise YamlError("a key that is no text")
        value = None
        if at < len(tokens) and tokens[at] == ":":
            value, at = _flow_value(tokens, at + 1, depth + 1)
        found[key] = value
        at = _after_comma(tokens, at, "}")
    return found, at + 1


def _after_comma(tokens: list[str], at: int, closing: str) -> int:
    if at >= len(tokens) or tokens[at] not in (",", closing):
        raise YamlError("no comma between two values")
    return at + 1 if tokens[at] == "," else at


# ---- writing


def quoted(text: str) -> str:
    """Write a text so that YAML reads it back as that text, bare where that is safe."""
    if _BARE.fullmatch(text) and text.lower() not in _RESERVED and text == text.strip():
        return text
    return json.dumps(text, ensure_ascii=False)
