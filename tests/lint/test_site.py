"""The documentation as a site: no page is left out, no link is broken, and nothing is remote."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from demo.project import ROOT
from pgsplit.cli.main import COMMANDS
from tests.lint.test_linters import says

REMOTE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=.?(?:https?:)?//[^>]*>")


def test_site_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    """A page that is missing in the navigation and a link that leads nowhere fail the build."""
    says("python", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    pages = {file.name: file.read_text("utf-8") for file in tmp_path.rglob("*.html")}
    assert not [found for text in pages.values() for found in REMOTE.findall(text)]
    for name in COMMANDS:
        assert f'<h3 id="{name}">' in pages["commands.html"]
    assert "--max-pause TIME" in pages["commands.html"]
    assert '<h4 id="the-last-of-was-interrupted">' in pages["troubleshooting.html"]


def test_pages_name_commands_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = re.findall(r"runner\.py ([a-z]+)\b", page.read_text("utf-8"))
        assert not set(named) - set(COMMANDS), page


def test_runbook_says_what_to_do_about_each_alert() -> None:
    rules = yaml.safe_load((ROOT / "examples/monitoring/alerts.yml").read_text("utf-8"))
    table = (ROOT / "docs/runbook.md").read_text("utf-8")
    named = re.findall(r"`(Pgsplit\w+)`", table)
    assert {one["alert"] for group in rules["groups"] for one in group["rules"]} == set(named)
