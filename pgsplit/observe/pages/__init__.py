"""HTML pages for people: one file, without network or scripts, ready to print."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pgsplit.base.errors import NotReady
from pgsplit.base.text import ago, printable, seconds, size

# The steps of a time scale, in seconds.
STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200),
)
DAY = 86400.0


def render(template: str, short: Callable[[str], str] = str, **data: Any) -> str:
    """Fill in a template of this folder.

    Args:
        template: its file name.
        short: gives the short name of a database, for the filter of that name.
        data: the template's variables. A missing one is an error; text is escaped.

    Returns:
        The page's HTML.
    """
    environment = _environment()
    environment.filters["short"] = short
    return environment.get_template(template).render(**data)


def write(path: Path, html: str) -> None:
    """Write a page; atomic. It may hold rows, so it is for its owner alone.

    Args:
        path: the file; its folder has to exist. An existing page is replaced.
        html: the page, as `render` gives it.

    Raises:
        NotReady: the file can't be written.
    """
    path = path.resolve()  # replace a link's target, not the link
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(html)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise _unwritable(path, error.strerror or str(error)) from error


def check_writable(path: Path) -> None:
    """Check that a page can be written, before the work for it is done.

    Args:
        path: the page's file.

    Raises:
        NotReady: it is a folder, or its folder is missing or read-only.
    """
    path = path.resolve()
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    if path.exists() and not path.is_file():
        raise _unwritable(path, "it is no file")
    if not path.parent.is_dir():
        raise _unwritable(path, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(path, f"the folder {path.parent} may not be written to")


def slug(name: str) -> str:
    """Write a name so that it can be a file's, or a part of an address."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda found: f"~{ord(found[0]):x}", name)


def ticks(start: float, end: float, wanted: int = 8) -> list[tuple[float, str]]:
    """Divide a span of time into round parts, for a chart's scale.

    Args:
        start: the span's beginning, in seconds since any moment.
        end: its end.
        wanted: the maximal number of parts.

    Returns:
        Each mark's position, and its time after `start` in words.
    """
    span = max(end - start, 0.001)
    whole_days = DAY * max(1, -(-span // (wanted * DAY)))
    step = next((step for step in STEPS if span / step <= wanted), whole_days)
    count = int(span / step) + 1
    return [(start + step * i, _duration(step * i, step)) for i in range(count)]


def _duration(count: float, step: float) -> str:
    if step < 0.1:
        return f"{count * 1000:.0f} ms"
    if step < 1:
        return f"{count:.1f} s"
    if step < 60:
        return f"{count:.0f} s" if count < 60 else f"{count // 60:.0f}:{count % 60:02.0f} min"
    if step < 3600:
        return f"{count / 60:.0f} min"
    return f"{count / 3600:.0f} h" if step < DAY else f"{count / DAY:.0f} d"


def _unwritable(path: Path, why: str) -> NotReady:
    return NotReady(
        f"The page can't be written: {why}.",
        where=str(path),
        hint="Name a file in a folder that exists and that you may write to.",
    )


def _shown(value: Any) -> Any:
    # Control characters are invalid for strict readers, and may reorder a line.
    return printable(value) if type(value) is str else value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        size=size,
        seconds=seconds,
        brief=_brief,
        ago=ago,
        number=lambda n: f"{n:,}",
        clipped=_clipped,
        slug=slug,
        coded=_coded,
        sums=lambda counts: sum(counts.values()),
    )
    environment.globals["ticks"] = ticks
    return environment


def _brief(count: float) -> str:
    """Give a duration that may be very short."""
    return f"{count * 1000:,.0f} ms" if count < 1 else seconds(count)


def _coded(text: str) -> Markup:
    """Show what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(printable(text)))))


def _clipped(text: str, length: int) -> str:
    """Shorten a label; the full text belongs in a title."""
    return text if len(text) <= length else text[: length - 1] + "…"
