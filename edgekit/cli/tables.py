"""The README's generated tables: `python -m edgekit.cli.tables README.md` writes them, a test fails when they drift."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.augment.op import OPS
from edgekit.cli.listing import field_text
from edgekit.compress.method import STEPS
from edgekit.spec import Registry


def table(registry: Registry[Any]) -> str:
    """Give a Markdown table of every op or step: flag, what it does, fields with defaults and bounds."""
    lines = [f"| {registry.kind} | what it does | fields: default [bounds] |", "|---|---|---|"]
    for cls in registry:
        flag = f"--{cls.spec_name()}" + (f" {cls.flag_field().name.upper()}" if cls.flag_field() else "")
        fields = ", ".join(f"`{field_text(f)}`" for f in cls.options()) or "none"
        lines.append(f"| `{flag}` | {cls.help()} | {fields} |")
    return "\n".join(_escaped(line) for line in lines)


def _escaped(line: str) -> str:
    """Escape the bars inside code, which would end a cell."""
    return re.sub(r"`[^`]*`", lambda code: code.group().replace("|", "\\|"), line)


def rewritten(text: str) -> str:
    """Give the text with the tables between its markers made anew."""
    for registry in (OPS, STEPS):
        name = f"{registry.kind}s"
        pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
        body = table(registry) + "\n"
        text = re.sub(pattern, lambda found, body=body: found[1] + body + found[2], text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    files.write(readme, rewritten(readme.read_text()))
