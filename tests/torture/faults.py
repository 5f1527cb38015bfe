"""Faults: what may happen to servers, links and the runner while an operation is under way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import psutil
import psycopg

from pgsplit.routing.env_file import Side
from tests.support.accounting import Loss, survivors
from tests.support.clients import Client
from tests.support.nodes import Node, ServerFailed
from tests.support.proxy import BOTH
from tests.support.servers import free_port
from tests.support.world import MONOLITH, SERVICE, World

# What a process may still write into a file when the disk is full: less than a WAL segment.
FULL_BYTES = 256 * 1024
# How often a failover comes when the operation is over, not while it is under way.
AFTERWARDS = 0.4
PRLIMIT = shutil.which("prlimit")


@dataclass
class Scene:
    """Where a fault happens: the world, its clients, the operation's process, the randomness.

    `losses` tells what a standby lacked that took over.
    """

    world: World
    random: Random
    clients: Sequence[Client] = ()
    process: subprocess.Popen[str] | None = None
    standby: Node | None = None
    standby_of: str = ""
    losses: list[Loss] = field(default_factory=list)
    lags_since: float = 0.0

    def node(self) -> Node:
        """Choose a server."""
        return self.world.nodes[self.random.choice((MONOLITH, SERVICE))]


@dataclass(frozen=True)
class Fault:
    """A fault by name: what happens, how likely it is, what has to be there before.

    One that `loses` writes happens once in a cycle at most: what was left after the first one may
    be on the server that the second one takes.
    """

    name: str
    happens: Callable[[Scene], str]
    weight: int = 2
    prepare: Callable[[Scene], None] | None = None
    loses: bool = False


def _signal_runner(order: signal.Signals) -> Callable[[Scene], str]:
    def send(scene: Scene) -> str:
        if scene.process and scene.process.poll() is None:
            scene.process.send_signal(order)
            return order.name
        return "too late"

    return send


def _stop_runner(scene: Scene) -> str:
    process = scene.process
    if not process or process.poll() is not None:
        return "too late"
    seconds = scene.random.choice((0.2, 1.0, 6.0))
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    return f"{seconds} s"


def _signal_backend(order: signal.Signals) -> Callable[[Scene], str]:
    """Signal one process of a server, often one that replicates."""

    def send(scene: Scene) -> str:
        node = scene.node()
        found = {}
        for process in node.processes()[1:]:
            with suppress(psutil.Error):
                found[process] = " ".join(process.cmdline())
        wanted = scene.random.choice(("walsender", "apply worker", "postgres: "))
        such = [one for one, title in found.items() if wanted in title] or list(found)
        if not such:
            return f"{node.name}: nobody is there"
        chosen = scene.random.choice(such)
        with suppress(psutil.Error):
            chosen.send_signal(order)
        return f"{node.name}: {found[chosen][:60]}"

    return send


def _end_server(order: signal.Signals) -> Callable[[Scene], str]:
    def end(scene: Scene) -> str:
        node = scene.node()
        seconds = scene.random.choice((0.0, 0.3, 1.5))
        node.end(order)
        time.sleep(seconds)
        node.start()
        return f"{node.name}, down for {seconds} s"

    return end


def _stop_server(scene: Scene) -> str:
    node, seconds = scene.node(), scene.random.choice((0.1, 0.5, 2.0, 4.0))
    frozen = node.processes()
    for process in frozen:
        with suppress(psutil.Error):
            process.suspend()
    time.sleep(seconds)
    for process in frozen:
        with suppress(psutil.Error):
            process.resume()
    return f"{node.name}, {seconds} s"


def _freeze_link(scene: Scene) -> str:
    name, link = scene.random.choice(sorted(scene.world.links.items()))
    directions = scene.random.choice((BOTH, BOTH[:1], BOTH[1:]))
    seconds = scene.random.choice((0.3, 1.0, 4.0))
    link.freeze(*directions)
    time.sleep(seconds)
    if scene.random.random() < 0.5:
        link.cut()
    link.heal()
    return f"{name}, {' and '.join(directions)}, {seconds} s"


def _cut_link(scene: Scene) -> str:
    name, link = scene.random.choice(sorted(scene.world.links.items()))
    link.cut()
    return name


def _slow_link(scene: Scene) -> str:
    name, link = scene.random.choice(sorted(scene.world.links.items()))
    direction, seconds = scene.random.choice(BOTH), scene.random.choice((0.01, 0.1))
    link.slow(direction, seconds)
    time.sleep(1.5)
    link.heal()
    return f"{name}, {direction}, {seconds} s a piece"


def _fill_disk(scene: Scene) -> str:
    """Let every write fail that would make a file long, as on a full disk; then there is room."""
    node = scene.node()
    if not PRLIMIT:
        return f"{node.name}: skipped, since there is no program prlimit"
    limited = [_limit(node, process.pid, FULL_BYTES) for process in node.processes()]
    if not any(limited):
        return f"{node.name}: skipped, since this account may not limit a server's files"
    seconds = scene.random.choice((0.3, 1.5))
    time.sleep(seconds)
    for process in node.processes():
        _limit(node, process.pid, "unlimited")
    # What could not write its WAL is down, and could not start before there was room.
    time.sleep(0.1)
    went_down = not node.is_running()
    try:
        node.start()
    except ServerFailed:
        # Its recovery began under the limit, and has been waiting for its own processes since.
        node.end(signal.SIGKILL)
        node.start()
    return f"{node.name}, {seconds} s" + went_down * ", which went down"


def _limit(node: Node, pid: int, limit: int | str) -> bool:
    """Limit a process's files, as the server's own account, which may; tell whether it was done."""
    command = [str(PRLIMIT), "--pid", str(pid), f"--fsize={limit}:unlimited"]
    done = subprocess.run(command, **node.as_account(), stderr=subprocess.DEVNULL)
    return done.returncode == 0


def _make_standby(scene: Scene, side: str = "") -> None:
    """Give a server a standby that has everything that the server acknowledges."""
    scene.standby_of = side or scene.random.choice((MONOLITH, SERVICE))
    primary = scene.world.nodes[scene.standby_of]
    folder = primary.folder.with_name(f"{scene.standby_of}-{free_port()}")
    standby = Node(f"{scene.standby_of}", primary.version, folder, free_port())
    standby.standby_of(primary)
    standby.start()
    scene.standby = standby
    _configure(primary, "synchronous_standby_names", "*")
    scene.world.wait_for_standby(primary)


def _make_lagging_standby(side: str) -> Callable[[Scene], None]:
    """Give a server a standby that nothing reaches from some time before the operation on."""

    def make(scene: Scene) -> None:
        _make_standby(scene, side)
        scene.lags_since = time.time()
        _configure(scene.world.nodes[side], "synchronous_standby_names", "")
        assert scene.standby
        for process in scene.standby.processes():
            with suppress(psutil.Error):
                process.suspend()
        time.sleep(scene.random.choice((0.0, 0.5, 2.0)))

    return make


def _configure(node: Node, name: str, value: str) -> None:
    with psycopg.connect(node.url(), autocommit=True) as connection:
        connection.execute(f"alter system set {name} = '{value}'")
        connection.execute("select pg_reload_conf()")


def _fail_over(scene: Scene) -> str:
    """Kill the primary, and put the standby in charge; perhaps only when the operation is over."""
    standby, name = scene.standby, scene.standby_of
    assert standby
    waits = scene.random.random() < AFTERWARDS
    while waits and scene.process and scene.process.poll() is None:
        time.sleep(0.02)
    time.sleep(waits * scene.random.choice((0.0, 1.0)))
    primary = scene.world.nodes[name]
    primary.end(signal.SIGKILL)
    died = time.time()
    for process in standby.processes():
        with suppress(psutil.Error):
            process.resume()
    standby.run("pg_ctl", "promote", "-w", "-D", str(standby.data))
    _configure(standby, "synchronous_standby_names", "")
    if scene.lags_since:
        other = scene.world.nodes[SERVICE if name == MONOLITH else MONOLITH].url()
        lost = (Side(name), scene.lags_since, died, scene.clients, standby.url(), other)
        scene.losses.append(survivors(*lost))
    scene.world.lead(name, standby)
    for who in ("people", "servers"):
        scene.world.links[f"{who} to {name}"].cut()
    return f"{name}{waits * ', after the end'}"


FAULTS = (
    Fault("runner killed", _signal_runner(signal.SIGKILL), 8),
    Fault("runner told to end", _signal_runner(signal.SIGTERM), 2),
    Fault("runner interrupted", _signal_runner(signal.SIGINT), 2),
    Fault("runner stopped", _stop_runner, 3),
    Fault("process killed", _signal_backend(signal.SIGKILL), 4),
    Fault("process ended", _signal_backend(signal.SIGTERM), 4),
    Fault("server killed", _end_server(signal.SIGKILL), 3),
    Fault("server stopped at once", _end_server(signal.SIGQUIT), 3),
    Fault("server shut down", _end_server(signal.SIGINT), 2),
    Fault("server frozen", _stop_server, 3),
    Fault("link frozen", _freeze_link, 4),
    Fault("link cut", _cut_link, 4),
    Fault("link slow", _slow_link, 2),
    Fault("disk full", _fill_disk, 2),
    Fault("failover", _fail_over, 2, _make_standby),
    *(
        Fault(f"failover of the {side} with lag", _fail_over, 3, _make_lagging_standby(side), True)
        for side in (MONOLITH, SERVICE)
    ),
)


def draw(random: Random, faults: tuple[Fault, ...] = FAULTS) -> Fault:
    """Draw a fault by its weight."""
    return random.choices(faults, [one.weight for one in faults])[0]
