"""dbt without its start-up time: one server a run imports dbt and forks for each command.

`dbt_client.py` beside this file is a process that hands its arguments, environment, folder and
output over, and ends as the dbt does that was forked for it. What runs is dbt itself, from its
command line on. The first client starts the server; it ends with the run, like all that is in its
folder.

Parsing the whole project takes three seconds. So what dbt has parsed of a project, for a target, is
kept beside the socket for all workers. dbt checks itself which files have changed since. It would
also parse everything again for each address of a server, which no file depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import socketserver
import sys
from multiprocessing import util
from pathlib import Path

# It keeps what it parses, so nothing is parsed ahead.
PARSER = ("true",)
CLIENT = Path(__file__).with_name("dbt_client.py")


def command(address: Path) -> tuple[str, ...]:
    """Give the command that replaces `dbt`, with the socket for the server."""
    return (sys.executable, "-S", "-E", str(CLIENT), str(address))


class _Handler(socketserver.BaseRequestHandler):
    """One command in its own process, which ends when its forked dbt ends."""

    def handle(self) -> None:
        assert isinstance(self.request, socket.socket)
        first, descriptors, _, _ = socket.recv_fds(self.request, 2**16, 2)
        sent = first
        while not sent.endswith(b"\n"):
            sent += self.request.recv(2**16)
        order = json.loads(sent)
        child = os.fork()
        if child == 0:
            assert isinstance(self.server, _Server)
            kept = Path(f"{self.server.server_address}.parsed")
            _become_dbt(kept, order["arguments"], order["environ"], order["folder"], descriptors)
        self.request.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        self.request.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become_dbt(
    kept: Path,
    arguments: list[str],
    environ: dict[str, str],
    folder: str,
    descriptors: list[int],
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
        parsed = _parsed(arguments, environ, folder)
        kept /= _key(arguments, folder)
        if kept.exists():
            parsed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept, parsed)
        cli()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if parsed.exists():
            part = kept.with_suffix(f".{os.getpid()}")
            shutil.copyfile(parsed, part)
            part.rename(kept)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        util._exit_function()  # what a process that isn't forked does: dbt has semaphores
        os._exit(code)


def _parsed(arguments: list[str], environ: dict[str, str], folder: str) -> Path:
    """Name the file in which dbt keeps what it has parsed."""
    given = dict(zip(arguments, arguments[1:], strict=False))
    target = given.get("--target-path") or environ.get("DBT_TARGET_PATH") or "target"
    return Path(folder, target, "partial_parse.msgpack")


def _key(arguments: list[str], folder: str) -> str:
    """Name what is parsed: a project, a target and variables."""
    given = dict(zip(arguments, arguments[1:], strict=False))
    project = given.get("--project-dir", folder)
    named = [project, *(given.get(one, "") for one in ("--target", "--vars"))]
    return hashlib.md5("\0".join(named).encode()).hexdigest()


def _parse_alike_everywhere() -> None:
    from dbt.artifacts.resources import FileHash
    from dbt.parser.manifest import ManifestLoader

    check = ManifestLoader.build_manifest_state_check

    def without_address(loader: ManifestLoader) -> object:
        found = check(loader)
        database = loader.root_project.credentials.database  # which models do depend on
        found.profile_hash = FileHash.from_contents(database)
        return found

    ManifestLoader.build_manifest_state_check = without_address


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each command, and collects ended processes."""


def _serve(address: str) -> None:
    from dbt.cli.main import dbtRunner

    _parse_alike_everywhere()
    # What dbt generates and caches the first time, its forks find done: also what reads a parse.
    scratch = ("--target-path", f"{address}.target", "--log-path", f"{address}.logs")
    target = ["--target", "payments_db"]
    for _ in range(2):
        dbtRunner().invoke(["--quiet", "parse", *target, *scratch])
    kept = Path(f"{address}.parsed")
    kept.mkdir(exist_ok=True)
    if (parsed := _parsed([*scratch], {}, "")).exists():  # not before `dbt deps`
        shutil.copyfile(parsed, kept / _key(target, os.getcwd()))
    with _Server(address, _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1])
