"""Asks a service's own `/health` page whether it is well."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException

from pgsplit.base.text import few
from pgsplit.observe.vitals.asker import Asker
from pgsplit.project.project import Service

TIMEOUT_SECONDS = 4.0
MOST_BYTES = 65536
SHOWN_CHARACTERS = 200
# What a page may say of itself in JSON, as {"status": "up"}; compared in lower case.
WELL = ("ok", "pass", "up", "healthy", "alive", "ready", "warn")


@dataclass(frozen=True)
class Reply:
    """What a page said: its HTTP status, if it gave one, and what is wrong, if anything is."""

    url: str
    code: int | None
    seconds: float
    wrong: str = ""


class Page(Asker[Reply]):
    """A service's health page.

    Args:
        service: the service.
        url: its page.
    """

    def __init__(self, service: Service, url: str) -> None:
        super().__init__(f"the page of {service.database}")
        self.url = url

    def ask(self) -> Reply:
        """Fetch the page; what goes wrong is a reply, too."""
        started, code, wrong = time.monotonic(), None, ""
        wanted = urllib.request.Request(self.url, headers={"Accept": "application/json, */*"})
        try:
            with urllib.request.urlopen(wanted, timeout=TIMEOUT_SECONDS) as page:
                code, wrong = page.status, said_to_be_wrong(page.read(MOST_BYTES))
        except urllib.error.HTTPError as refused:
            with refused:
                said = refused.read(SHOWN_CHARACTERS).decode("utf-8", "replace").strip()
            code, wrong = (
                refused.code,
                f"it says {refused.code} {refused.reason}: {said}".strip(": "),
            )
        except TimeoutError:
            wrong = f"no answer within {TIMEOUT_SECONDS:g} s"
        except (OSError, HTTPException, ValueError) as failed:
            wrong = str(getattr(failed, "reason", failed)) or type(failed).__name__
        return Reply(self.url, code, time.monotonic() - started, wrong)

    def silent(self, seconds: float) -> Reply:
        """Say that the page does not answer."""
        return Reply(self.url, None, seconds, f"no answer within {seconds:.0f} s")


def said_to_be_wrong(body: bytes) -> str:
    """Tell what a page with a good status says is wrong; nothing if all is well.

    JSON counts if it has a `status`, which has to be one of `WELL`. Of any other text nothing is
    known but that it came.
    """
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    status = found.get("status") if isinstance(found, Mapping) else None
    if not isinstance(status, str) or status.lower() in WELL:
        return ""
    return f"its status is {status!r}, and not one of {few(WELL, len(WELL))}"
