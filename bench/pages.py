"""Writes what was measured into README.md and docs/performance.md, between marks.

A block begins with `<!-- bench: NAME -->` and ends with `<!-- end of bench -->`. NAME is a
measurement's name, `goals`, or `figures`: those goals that were measured. What lies between is made
from bench/results/ alone, so writing it twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import chart, goals
from bench.result import Record, load, replace
from demo.project import ROOT

RESULTS = ROOT / "bench" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
CHART = ROOT / "docs" / "growth.svg"
END = "<!-- end of bench -->"
BLOCK = re.compile(rf"(<!-- bench: (\w+) -->\n).*?({END})", re.DOTALL)
HEADINGS = ("what", ">measured", ">goal", "")


def write() -> list[Path]:
    """Write all blocks and the chart from the kept results; give the files that changed."""
    changed = []
    for path, text in made().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            replace(path, text)
            changed.append(path)
    return changed


def made() -> dict[Path, str]:
    """Give what each page has to say, by its file, going by the kept results."""
    records = {one.name: one for one in map(load, sorted(RESULTS.glob("*.json")))}
    pages = {
        path: BLOCK.sub(
            lambda found: f"{found[1]}\n{_block(found[2], records)}\n{found[3]}",
            path.read_text(encoding="utf-8"),
        )
        for path in PAGES
    }
    if "main" in records:
        pages[CHART] = chart.growth("Seconds by rows", records["main"].values["lines"])
    return pages


def _block(name: str, records: Mapping[str, Record]) -> str:
    if name == "goals":
        return _table(HEADINGS, goals.rows(records))
    if name == "figures":
        measured = [row[:3] for row in goals.rows(records) if row[1] != goals.UNKNOWN]
        return _table(HEADINGS[:3], measured)
    if name not in records:
        return f"Not measured yet: `make bench WHAT={name} PUBLISH=1`\n"
    one = records[name]
    versions = ", ".join(f"{what} {version}" for what, version in one.versions.items())
    rows = [row for row in one.rows if row is not None]
    picture = f"\n![Seconds by rows]({CHART.name})\n" if name == "main" else ""
    notes = "".join(f"\n- {note}" for note in one.notes) + "\n" if one.notes else ""
    return (
        f"{_table(one.columns, rows)}\n`{one.command}` on {one.date}, in"
        f" {one.seconds / 60:.0f} minutes. {one.machine}. {versions}.\n{notes}{picture}"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a table in Markdown; a heading that begins with `>` right-aligns its column."""
    names = [heading.removeprefix(">") for heading in headings]
    lines = ["---:" if heading[:1] == ">" else "---" for heading in headings]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in [names, lines, *cells])
