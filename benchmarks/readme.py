"""Make the README's generated parts anew: the tables of ops and steps, and what its console blocks print.

python benchmarks/readme.py tables     # the tables (fast; a test fails when they drift)
python benchmarks/readme.py console    # run every command of the console blocks and put its output below it
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekit.augment.op import OPS
from edgekit.augment.text.op import TEXT_OPS
from edgekit.cli.listing import field_text
from edgekit.compress.method import STEPS
from edgekit.spec import Registry

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]*)\n(?P<output>.*?)```", re.DOTALL)


def table(registry: Registry[Any]) -> str:
    """Give a Markdown table of every op or step: flag, what it does, fields with defaults and bounds."""
    lines = [f"| {registry.kind} | what it does | fields: default [bounds] |", "|---|---|---|"]
    for cls in registry:
        flag = f"--{cls.spec_name()}" + (f" {cls.flag_field().name.upper()}" if cls.flag_field() else "")
        fields = ", ".join(f"`{field_text(f)}`" for f in cls.options()) or "none"
        lines.append(f"| `{flag}` | {cls.help()} | {fields} |")
    return "\n".join(re.sub(r"`[^`]*`", lambda code: code.group().replace("|", "\\|"), line) for line in lines)


def with_tables(text: str) -> str:
    """Give the text with the tables between its markers made anew."""
    for name, registry in (("ops", OPS), ("text-ops", TEXT_OPS), ("steps", STEPS)):
        found = re.search(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", text, flags=re.DOTALL)
        if found is not None:
            text = text[: found.start()] + found[1] + table(registry) + "\n" + found[2] + text[found.end() :]
    return text


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a console block's command in a folder that has a copy of sample_data/."""
    words = shlex.split(command)
    assert words[0] == "edgekit"
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False)


def with_outputs(text: str) -> str:
    """Give the text with the output of every console block made anew."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(ROOT / "sample_data", Path(name) / "sample_data", ignore=shutil.ignore_patterns("*-augmented"))

        def rerun(block: re.Match[str]) -> str:
            done = run(block["command"], Path(name))
            if done.returncode:
                sys.exit(f"$ {block['command']}\n{done.stderr}")
            return f"```console\n$ {block['command']}\n{done.stdout}```"

        return BLOCK.sub(rerun, text)


if __name__ == "__main__":
    make = {"tables": with_tables, "console": with_outputs}[sys.argv[1]]
    README.write_text(make(README.read_text()))
