"""Notices: what people and pagers are told while nobody looks, by a command or a webhook.

A notice is one JSON document. The command reads it from its standard input, the webhook gets it by
POST. Its field `text` is what chat programs show.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pgsplit.base import shell
from pgsplit.base.text import rfc3339

SECONDS = 10.0
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Something that has happened to a service.

    `event` is one of state, failed, trouble, recovered and rollout.
    """

    event: str
    service: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def as_data(self) -> dict[str, Any]:
        """Give it as plain data."""
        found = {"event": self.event, "service": self.service, "text": self.text}
        return {**found, "at": rfc3339(self.at, "seconds"), **self.fields}


class Notifier:
    """Sends notices in their order, in a thread of its own: nobody waits for a slow receiver.

    Args:
        command: a shell command, or nothing.
        url: a webhook, or nothing.
    """

    def __init__(self, command: str, url: str) -> None:
        self.command, self.url = command, url
        self.pool = ThreadPoolExecutor(1) if command or url else None

    def send(self, notice: Notice) -> None:
        """Send a notice soon; if that fails, a warning is logged."""
        if self.pool:
            self.pool.submit(self._deliver, notice)

    def close(self) -> None:
        """Wait until all notices are delivered, each within `SECONDS`, or have failed."""
        if self.pool:
            self.pool.shutdown()

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deliver(self, notice: Notice) -> None:
        text = json.dumps(notice.as_data())
        if self.command:
            environ = {"EVENT": notice.event, "SERVICE": notice.service}
            how, words = shell.run(self.command, environ, SECONDS, text)
            if how:
                LOG.warning("The command for notices %s: %s", how, " ".join(words.split())[-300:])
        if self.url:
            try:
                self._post(text)
            except (OSError, ValueError) as error:
                # Not the URL: those of chat programs are secrets.
                LOG.warning("The webhook for notices can't be told: %s", error)

    def _post(self, text: str) -> None:
        request = urllib.request.Request(
            self.url, text.encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
