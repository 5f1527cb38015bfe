"""Names and values of a database can't write over a terminal, and files with rows are private."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import pytest
from rich.text import Text

from pgsplit.base.errors import NotReady
from pgsplit.base.text import printable, printable_json
from pgsplit.cli import console
from pgsplit.project import dbt
from tests.support.split import Split

# Clears the screen; begins a line again; rings; is a C1 code; turns the text; deletes; hides.
CONTROL = "\x1b[2J\r\a\x9b1m\u202e\x7f\u200b"
SHOWN = r"\x1b[2J\r\x07\x9b1m\u202e\x7f\u200b"


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable(f"né {CONTROL}\n\tend") == f"né {SHOWN}\n\tend"


def test_json_stays_the_same_document() -> None:
    document = {f"a{CONTROL}": ["né", CONTROL, "\U000e0001"]}
    text = printable_json(json.dumps(document, ensure_ascii=False, indent=2))
    assert json.loads(text) == document
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "né" in text


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Give what the console prints, as on a terminal with colours."""
    said = io.StringIO()
    for name in ("out", "err"):
        safe = console.SafeConsole(file=said, highlight=False, force_terminal=True, width=200)
        monkeypatch.setattr(console, name, safe)
    return said


def assert_shown(printed: io.StringIO) -> None:
    said = printed.getvalue()
    for one in ("\x1b[2J", "\r", "\a", "\x9b", "\u202e", "\x7f", "\u200b"):
        assert one not in said, (one, said)
    assert SHOWN in said


def test_messages_show_them(printed: io.StringIO) -> None:
    console.say(f"table {CONTROL}")
    assert_shown(printed)


@pytest.mark.parametrize("part", ["what", "where", "hint"])
def test_errors_show_them(printed: io.StringIO, part: str) -> None:
    said = {"where": "", "hint": "", "what": "", part: CONTROL}
    console.show_error(NotReady(said["what"], where=said["where"], hint=said["hint"]))
    assert_shown(printed)


def test_warnings_and_notes_show_them(printed: io.StringIO) -> None:
    console.show_warnings([CONTROL])
    assert_shown(printed)
    console.show_notes([CONTROL])
    assert_shown(printed)


def test_tables_and_texts_never_pass_them_on(printed: io.StringIO) -> None:
    shown = console.table("name")
    shown.add_row(CONTROL)
    shown.add_row(Text(CONTROL, style="red"))
    console.out.print(shown)
    for one in ("\x1b[2J", "\r", "\a", "\x9b", "\u202e", "\x7f", "\u200b"):
        assert one not in printed.getvalue()
    assert r"\x1b[2J" in printed.getvalue()


def test_column_of_the_monolith_can_not_write_over_the_terminal(
    split: Split, tmp_path: Path
) -> None:
    with split.monolith() as monolith:
        monolith.execute(f'alter table blytz_hire.payments add column "a{CONTROL}b" xml')
        monolith.execute(f'create table blytz_hire."t{CONTROL}" (id text)')
    page = tmp_path / "page.html"
    shown = split.runner("analyze", "--html", str(page))
    data = split.runner("analyze", "--json")
    for text in (shown.stdout, shown.stderr, data.stdout, page.read_text()):
        for one in ("\x1b", "\r", "\a", "\x9b", "\u202e", "\x7f", "\u200b"):
            assert one not in text, one
    assert r"\x1b[2J" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_backups_are_private_from_the_first_byte(landed: Split) -> None:
    assert landed.runner("backup", "payments").returncode == 0
    (made,) = Path(landed.environ["BLYTZ_HIRE_BACKUPS"]).iterdir()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.rglob("*")}
    assert "backup.json" in modes and len(modes) > 1
    assert set(modes.values()) <= {0o600, 0o700}, modes


def test_what_dbt_writes_is_private(
    landed: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests' own dbt is forked, and has the rights that the first one was started with."""
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    monkeypatch.setenv("DBT_LOG_PATH", str(tmp_path / "logs"))
    monkeypatch.setattr(dbt, "DBT", (sys.executable, "-m", "dbt.cli.main"))
    dbt.run(["parse"], "payments_db", landed.connections, "manifest.json")
    for path in (tmp_path / "logs").rglob("dbt.log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "logs" / "payments_db").stat().st_mode) == 0o700
