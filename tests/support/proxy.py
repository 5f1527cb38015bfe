"""A TCP link between two parties that a test can freeze, slow down, cut or lead elsewhere."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress

BOTH = ("there", "back")
CHUNK = 2**16


class Proxy:
    """Forwards one port to another; what is frozen waits, what is cut is gone.

    A direction is `there`, from whoever connects to the server, or `back`.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.delay = dict.fromkeys(BOTH, 0.0)
        self._moves = {direction: threading.Event() for direction in BOTH}
        self.heal()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock, self._is_closed = threading.Lock(), False
        self._listening = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self, *directions: str) -> None:
        """Let nothing pass in these directions; nobody is told."""
        for direction in directions:
            self._moves[direction].clear()

    def slow(self, direction: str, seconds: float) -> None:
        """Delay each piece in a direction."""
        self.delay[direction] = seconds

    def heal(self) -> None:
        """Let everything pass at once again."""
        for direction in BOTH:
            self.delay[direction] = 0.0
            self._moves[direction].set()

    def cut(self) -> None:
        """Break all connections; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _close(*pair)

    def close(self) -> None:
        """End it."""
        self._is_closed = True
        self._listening.close()
        self.heal()
        self.cut()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                if not select.select([self._listening], [], [], 0.5)[0]:
                    continue
                client, _ = self._listening.accept()
            except (OSError, ValueError):
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._moves["there"].wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            _close(client)
            return
        pair = (client, server)
        for one in pair:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.add(pair)
        back = threading.Thread(target=self._pump, args=(server, client, "back"), daemon=True)
        back.start()
        self._pump(client, server, "there")
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        _close(*pair)

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if self.delay[direction]:
                    time.sleep(self.delay[direction])
                self._moves[direction].wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
