"""docs/troubleshooting.md has each message of the code, and none that the code doesn't have."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lint.messages import ENGINE, Message, collect, tidy

PAGE = Path(ENGINE).parent / "docs" / "troubleshooting.md"
ROW = re.compile(r"^\| (?P<texts>`[^|]+`) \| (?P<exit>[^|]+) \| (?P<meaning>.+) \|$", re.M)
# From so many words on, an entry need not have the end of a message.
WORDS = 4


def entries() -> list[tuple[str, str]]:
    """Give each text of the page, with its exit codes."""
    rows = ROW.finditer(PAGE.read_text("utf-8"))
    return [
        (tidy(text), row["exit"]) for row in rows for text in re.findall("`(.+?)`", row["texts"])
    ]


def fits(entry: str, text: str) -> bool:
    """Tell whether an entry is about a message."""
    is_long = len(re.findall("[A-Za-z]{2,}", entry)) >= WORDS
    return text == entry or (is_long and text.startswith(entry))


def stub(one: Message) -> str:
    """Give a row to paste and complete."""
    text = re.split("[`|]", one.text)[0].rstrip()
    codes = ", ".join(str(code) for code in sorted(one.codes)) or "EXIT CODE"
    return f"| `{text}` | {codes} | MEANING, AND WHAT TO DO |\n  {one.places[0]}; hint: {one.hint}"


def test_each_message_has_an_entry() -> None:
    known = [entry for entry, _ in entries()]
    lacking = [one for one in collect().values() if not any(fits(e, one.text) for e in known)]
    rows = "\n".join(stub(one) for one in lacking)
    assert not lacking, f"Paste these rows into docs/troubleshooting.md, and complete them:\n{rows}"


def test_each_entry_is_a_message_with_its_exit_code() -> None:
    found = collect().values()
    wrong = []
    for entry, codes in entries():
        about = [one for one in found if fits(entry, one.text)]
        has = {str(code) for one in about for code in one.codes}
        if not about:
            wrong.append(f"no code says: {entry}")
        elif has - set(codes.split(", ")):
            wrong.append(f"exit code {', '.join(has)}: {entry}")
    assert not wrong, "In docs/troubleshooting.md:\n" + "\n".join(wrong)
