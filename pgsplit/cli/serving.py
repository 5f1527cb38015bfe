"""Serves a few pages over HTTP, for probes and for Prometheus, until told to stop."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import click

from pgsplit.base.errors import NotReady
from pgsplit.cli import console

LOOPBACK = "127.0.0.1"
# A client that is slower keeps no thread.
CLIENT_SECONDS = 10.0
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """What is served: its text, status and type."""

    body: bytes
    status: int = 200
    type: str = TEXT


# By path; each is given the request's header Accept.
Pages = Mapping[str, Callable[[str], Page]]


class Address(click.ParamType[tuple[str, int]]):
    """A place to serve at: PORT on this machine only, or HOST:PORT; 0 is any free port."""

    name = "[HOST:]PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Read an address; an IPv6 host stands in brackets."""
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not [HOST:]PORT, such as 9187 or 0.0.0.0:9187", param, ctx)
        return host.strip("[]") or LOOPBACK, int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that hangs does not keep the command from ending

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone or is too slow; that is its own business."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def serve(address: tuple[str, int], pages: Pages) -> None:
    """Serve pages until Ctrl-C or SIGTERM.

    Args:
        address: host and port.
        pages: what gives each page, by path; called in a thread of its own.

    Raises:
        NotReady: the address can't be had.
    """
    host, port = address
    try:
        server = _Server(address, _handler(pages))
    except OSError as error:
        raise NotReady(
            f"Nothing can be served at {host}:{port}: {error.strerror or error}.",
            where="this machine",
            hint="Give another address: --serve [HOST:]PORT; with port 0, any that is free.",
        ) from error
    with server:
        shown = f"[{host}]" if ":" in host else host
        at = f"http://{shown}:{server.server_address[1]}"
        console.say(f"Serving {', '.join(f'{at}{path}' for path in pages)}; Ctrl-C ends it.")
        console.out.file.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _handler(pages: Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Serves the pages to one client."""

        protocol_version, timeout = "HTTP/1.1", CLIENT_SECONDS

        def do_GET(self) -> None:
            """Give a page."""
            make = pages.get(urlsplit(self.path).path)
            if make is None:
                known = "\n".join(pages)
                page = Page(f"There is no such page. There are:\n{known}\n".encode(), 404)
            else:
                page = make(self.headers.get("Accept", ""))
            self.send_response(page.status)
            self.send_header("Content-Type", page.type)
            self.send_header("Content-Length", str(len(page.body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page.body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler
