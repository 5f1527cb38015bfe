"""dbt without its start: a server that has imported it, and forks for each command.

`start` makes one that waits for commands. `dbt_client.py SOCKET …` beside
this file is a process that hands its arguments, environment, folder and output over, and ends as
the dbt does that was forked for it. What runs is dbt itself, from its command line on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from migration.services import ROOT

CLIENT = Path(__file__).with_name("dbt_client.py")


def command(address: Path) -> tuple[str, ...]:
    """Give what is run in place of `dbt`."""
    return (sys.executable, "-S", "-E", str(CLIENT), str(address))


def start(address: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server; as soon as it has imported dbt it answers, and until then it lets wait.

    Args:
        address: the socket that it is to make.
        environ: where dbt finds the databases, for one parse ahead of all others.
    """
    target = str(Path(environ["DBT_TARGET_PATH"]) / "payments_db")
    # A fork that ends at once leaves semaphores to the system, which a helper of Python's tells of.
    quiet = ("-W", "ignore:resource_tracker:UserWarning")
    return subprocess.Popen(
        [sys.executable, *quiet, "-m", "tests.support.warm_dbt", str(address), target],
        env=dict(environ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )


class _Handler(socketserver.BaseRequestHandler):
    """One command, in a process of its own; it ends with the dbt that it has forked."""

    def handle(self) -> None:
        assert isinstance(self.request, socket.socket)
        first, descriptors, _, _ = socket.recv_fds(self.request, 2**16, 2)
        sent = first
        while not sent.endswith(b"\n"):
            sent += self.request.recv(2**16)
        order = json.loads(sent)
        child = os.fork()
        if child == 0:
            _become_dbt(order["arguments"], order["environ"], order["folder"], descriptors)
        self.request.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        self.request.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become_dbt(
    arguments: list[str], environ: dict[str, str], folder: str, descriptors: list[int]
) -> None:
    from dbt.cli.main import cli

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
        sys.argv = ["dbt", *arguments]
        cli()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(address: str, target: str) -> None:
    class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
        """Forks for each command, and collects what has ended."""

    with Server(address, _Handler) as server:
        from dbt.cli.main import dbtRunner

        # What dbt generates and caches the first time, its forks find done.
        dbtRunner().invoke(["--quiet", "parse", "--target", "payments_db", "--target-path", target])
        server.serve_forever()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
