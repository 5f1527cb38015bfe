"""Wraps messages between words: no name is broken, and a command stays whole to be pasted."""

from __future__ import annotations

import re
from textwrap import wrap as wrap_words

from pgsplit.base.text import printable

# A command in a sentence, up to the punctuation that ends it.
COMMAND = re.compile(r"(?:\./)?\b(?:runner\.py|pgsplit|psql|dbt|pg_dump)\b(?: [^\s,;:()]+)+")
# A line that is a statement or a command, and nothing else.
STATEMENT = re.compile(r"^\s*(?:\./|export |sudo |[A-Z]{4,} )|;\s*$")
GLUE = "\u00a0"  # stands for a space within a command


def wrap(text: str, width: int, first: str = "", following: str = "") -> str:
    """Wrap text between words; a word that is longer than a line stands on a line of its own.

    Args:
        text: the text; its own lines stay apart. Control characters are shown as escapes.
        width: the most characters in a line.
        first: what the first line begins with.
        following: what all others begin with.
    """
    lines: list[str] = []
    for line in printable(text).split("\n"):
        begin = following if lines else first
        if STATEMENT.search(line) or len(begin) + len(line) <= width:
            lines.append((begin + line).rstrip())
            continue
        indent = line[: len(line) - len(line.lstrip())]
        lines += wrap_words(
            COMMAND.sub(lambda found: found[0].replace(" ", GLUE), line.strip()),
            width,
            initial_indent=begin + indent,
            subsequent_indent=following + indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines).replace(GLUE, " ")
