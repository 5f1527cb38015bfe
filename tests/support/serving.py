"""What is served over HTTP: a service's health page, and the commands with --serve."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.split import Split


class Application(ThreadingHTTPServer):
    """A service's application with a health page: it says `says`, and was `asked` so often."""

    says: tuple[int, str] = (200, '{"status": "UP"}')
    asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/health"


@contextmanager
def application() -> Iterator[Application]:
    """Run such an application for the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked += 1
            status, body = made.says
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with Application(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(url: str) -> tuple[int, str]:
    """Fetch a page; give its status and text."""
    try:
        with urllib.request.urlopen(url, timeout=60) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


@contextmanager
def served(split: Split, *command: str) -> Iterator[str]:
    """Run a command with --serve in a process of its own; give where it serves."""
    with split.start(*command, "--serve", "0") as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.terminate()
            said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and not said, said
