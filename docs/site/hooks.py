"""What the site has beyond `docs/`: each command's help, the schemas, pages of the root, and CSS.

Everything is made while the site is built, so it can't be out of date.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pgsplit.cli.main import GROUPS, cli

ROOT = Path(__file__).parents[2]
# Pages of the root, and their names in the site. Links work on a code host, too.
ROOT_PAGES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# Tables with whole sentences need the width of the window.
CSS = """
.md-grid { max-width: 86rem }
.md-typeset table:not([class]) th { min-width: 0 }
@media (min-width: 60em) {
  .md-typeset table:not([class]) { display: table }
  .md-typeset table:not([class]) td:first-child { min-width: 14em }
}
"""
SQLSTATE = 5  # its length
ERROR = re.compile(r"^\| (?P<texts>`[^|]+`) \| (?P<exit>[^|]+) \| (?P<meaning>.+) \|$", re.M)
TABLE_HEAD = re.compile(r"^\| message \| exit .*\n\|---.*\n", re.M)
ROW = re.compile(r"^\| (?P<names>.*)\]\(docs/(?P<page>[\w-]+\.md)\)", re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    made = {"site.css": CSS, "commands.md": commands(), "schemas/index.md": schemas()}
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        made[page] = text.replace("[LICENSE](LICENSE)", "LICENSE")
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links of a code host to the site's pages."""
    for name, made in ROOT_PAGES.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({made}", markdown)
    if page.file.src_uri == "troubleshooting.md":
        page.meta["search"] = {"boost": 4}
        markdown = TABLE_HEAD.sub("", ERROR.sub(_with_heading, markdown))
    return markdown.replace("](schemas/)", "](schemas/index.md)")


def _with_heading(row: re.Match[str]) -> str:
    """Give an error a heading of its own, which the search finds and a link can lead to."""
    first, *others = row["texts"].split("<br>")
    more = "".join(f"{one}\\\n" for one in others)
    kind = "SQLSTATE" if len(row["exit"]) == SQLSTATE else "Exit code"
    return f"#### {first}\n\n{more}*{kind} {row['exit']}.* {row['meaning']}.\n"


def commands() -> str:
    """Give every command's help, as `--help` prints it; README's table names their pages."""
    table = (ROOT / "README.md").read_text("utf-8")
    pages = {
        name: found["page"]
        for found in ROW.finditer(table)
        for name in re.findall(r"`(\w+)`", found["names"])
    }
    lines = [
        "# Every command's help\n",
        "This page is made from the commands themselves. `runner.py` is called `pgsplit`",
        "[in another project](command-line.md), and has the same commands.\n",
    ]
    root = click.Context(cli, info_name="runner.py")
    for group, names in GROUPS.items():
        lines.append(f"## {group}\n")
        for name in names:
            found = cli.get_command(root, name)
            assert found is not None, name
            assert name in pages, f"the table of commands in README.md has no line for {name}"
            lines += _command(found, click.Context(found, info_name=name, parent=root))
            lines.append(f"More: [{name}]({pages[name]}).\n")
    return "\n".join(lines)


def _command(command: click.Command, ctx: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(ctx))
    records: list[tuple[str, str]] = []
    for one in command.get_params(ctx):
        record = one.get_help_record(ctx)
        if record and one.name != "help":
            records.append(record)
    rows = [f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in records]
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    table = ["| option | meaning |", "|---|---|", *rows, ""] if rows else []
    usage = f"```\n{ctx.command_path} {usage}\n```\n"
    return [f"### {ctx.info_name}\n", usage, f"{text}\n", *table]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def schemas() -> str:
    """List the JSON Schemas."""
    lines = ["# JSON Schemas\n", "[The command line](../command-line.md#json) tells their use.\n"]
    for file in sorted((ROOT / "docs" / "schemas").glob("*.json")):
        schema: dict[str, Any] = json.loads(file.read_text("utf-8"))
        says = schema.get("description") or schema.get("title") or ""
        lines.append(f"- [{file.name}]({file.name}) {says}")
    return "\n".join(lines) + "\n"
