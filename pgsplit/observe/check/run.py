"""The check: connects to everything at once, asks, and puts together what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgsplit.backup.ready import require_ready
from pgsplit.base.errors import ConnectionFailed, NotReady, SplitError
from pgsplit.cutover import surroundings
from pgsplit.load import provision
from pgsplit.observe.check import links, locked_out, questions, server
from pgsplit.observe.check.places import Connection, Finding, Place, places
from pgsplit.postgres import locale, refusals, rights
from pgsplit.postgres.connect import connect, explained
from pgsplit.postgres.need import Need
from pgsplit.project import strangers
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import shared
from pgsplit.routing import env_file, faults
from pgsplit.routing.routes import load

HERE = "this machine"


@dataclass(frozen=True)
class Checked:
    """What was found: at each server, and on this machine; and how long it took."""

    servers: Sequence[Place]
    machine: Sequence[Finding]
    psql: Sequence[str]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """All that was found."""
        return [*(one for place in self.servers for one in place.findings), *self.machine]

    @property
    def missing(self) -> list[Finding]:
        """What has to be mended."""
        return [one for one in self.findings if one.state == "missing"]

    def error(self) -> SplitError | None:
        """Give the error that ends the command; None if nothing is missing."""
        unreached = [e for place in self.servers for e in place.unreached.values()]
        if unreached:
            first = unreached[0]
            more = f" {len(unreached) - 1} more can't be reached." if len(unreached) > 1 else ""
            return ConnectionFailed(
                f"{first.what.removesuffix('.')}.{more}", where=first.where, hint=first.hint
            )
        if not self.missing:
            return None
        number = len({(one.need.name, one.need.problem) for one in self.missing})
        what = "1 thing is missing" if number == 1 else f"{number} things are missing"
        has_statements = any(place.statements() for place in self.servers)
        return NotReady(
            f"{what}. Nothing was changed.",
            hint="Paste the statements, do what the other lines say, then check again."
            if has_statements
            else "Do what these lines say, then check again.",
        )


def check(services: Sequence[Service], connections: Connections) -> Checked:
    """Ask every server what a split of these services will ever need; changes nothing.

    Where a login may make no subscription in any database of a server, one is made for the trial
    and dropped.

    Args:
        services: the services.
        connections: where all servers are; the services' databases need not exist.

    Returns:
        What was found, server by server.

    Raises:
        ConnectionFailed: a connection broke while it was asked.
        NotReady: there is no monolith any more.
    """
    started = time.monotonic()
    connections.require_monolith()
    monolith = connections.monolith
    everywhere = places(connections, _targets(services, monolith))
    with ExitStack() as open_connections, ThreadPoolExecutor(8) as pool:
        opened = pool.map(lambda one: _connect(one, connections), everywhere)
        for found in list(opened):
            open_connections.enter_context(found)
        for place in everywhere:
            _blind(place, services, connections)
        reached = [one for one in everywhere if one.asked]
        jobs: list[Callable[[], object]] = [
            lambda place=place: _ask(place, services, connections)  # type: ignore[misc]
            for place in reached
        ]
        list(pool.map(lambda job: job(), jobs))
        _compare(everywhere, services, connections)
        wanted = links.links(services, monolith)

        def try_all() -> None:
            # One after the other: a trial is a transaction, and other servers' trials ask this one.
            for place in reached:
                links.try_from(
                    place,
                    [one for one in wanted if one.target in place.asked],
                    everywhere,
                    connections,
                )

        tried = pool.submit(try_all)
        machine = Place(HERE, "", "")
        _ask_here(machine, everywhere, services, connections)
        tried.result()
        psql = [place.psql(connections) for place in everywhere]
    return Checked(everywhere, machine.findings, psql, round(time.monotonic() - started, 2))


def _targets(services: Sequence[Service], monolith: str) -> list[str]:
    """Name the monolith, the services, and those that share something with them."""
    others = [consumer for one in services for consumer in shared.consumers(one)]
    return [monolith, *dict.fromkeys(one.database for one in (*services, *others))]


def _connect(place: Place, connections: Connections) -> ExitStack:
    """Open a connection to each target, or to another database where it does not exist."""
    stack = ExitStack()
    for target in place.targets:
        try:
            place.asked[target] = stack.enter_context(connections.connect_to_any(target))
        except ConnectionFailed as refused:
            _stand_in(place, target, refused, connections, stack)
    return stack


def _stand_in(
    place: Place, target: str, refused: ConnectionFailed, connections: Connections, stack: ExitStack
) -> None:
    """Ask about a target's server in another of its databases, if that is possible."""
    is_absent = refused.what.startswith(refusals.NO_DATABASE) and target != connections.monolith
    is_locked = refused.what.startswith(refusals.NO_CONNECT)
    if not is_absent:
        place.refuse(f"connects to {place.databases[target]}", refused, "everything")
    if is_locked:
        place.locked.add(target)
    if not (is_absent or is_locked):
        place.unreached[target] = refused
        return
    place.absent.add(target)
    maintenance = provision.maintenance_url(connections.urls[target])
    try:
        place.asked[target] = stack.enter_context(connect(maintenance, target))
        return
    except ConnectionFailed as error:
        if is_absent:
            place.refuse("connects to postgres", error, "provision")
        if error.what.startswith(refusals.NO_CONNECT):
            place.locked.add(target)
    if place.asked:
        place.asked[target] = place.first
    elif target not in place.locked:
        place.unreached[target] = refused


def _blind(place: Place, services: Sequence[Service], connections: Connections) -> None:
    """Work out what a login needs where it may not connect."""
    name = connections.monolith
    if name not in place.locked and (place.asked or not place.locked):
        return
    url = connections.urls[place.targets[0]]
    is_monolith = name in place.locked
    attributes = ["CREATEROLE"] if questions.reads_through(connections.project) else []
    if any(one.database in place.targets for one in services):
        attributes = ["CREATEDB", "CREATEROLE"]
    place.unasked = locked_out.statements(
        place.user,
        str(conninfo_to_dict(url)["dbname"]) if is_monolith else "",
        services[0].mirror,
        list(questions.landed_by(services)),
        attributes,
        is_asked=bool(place.asked),
    )


def _ask(place: Place, services: Sequence[Service], connections: Connections) -> None:
    """Ask one server, and the databases on it."""
    monolith = connections.monolith
    wanted = links.links(services, monolith)
    publishes = [one for one in wanted if one.source in place.targets]
    subscribes = [one for one in wanted if one.target in place.targets]
    target = next(iter(place.asked))
    with explained(connections.urls[target], target):
        server.about_server(place, [one.name for one in wanted])
        server.room(place, publishes, subscribes)
        here = [one for one in services if one.database in place.asked]
        if here:
            place.add(rights.may_provision(place.first), "provision")
            place.add([rights.may_replicate(place.first)], "switch")
        if monolith in place.asked and monolith not in place.absent:
            questions.about_monolith(place, place.asked[monolith], services)
            _look_for_strangers(place, place.asked[monolith], connections)
        for service in here:
            _ask_service(place, service, connections)
        url = connections.urls[target]
        server.programs(place, provision.maintenance_url(url) if place.absent else url)


def _look_for_strangers(place: Place, database: Connection, connections: Connections) -> None:
    """Look for what others own where every command would run it with its login's rights."""
    try:
        strangers.require_none(database, connections.project, connections.monolith)
    except SplitError as error:
        place.refuse("code of others", error, "everything", "found")
    else:
        place.add([Need("code of others", "none", "none", True)], "everything", database)


def _ask_service(place: Place, service: Service, connections: Connections) -> None:
    database = place.asked[service.database]
    absent = service.database in place.absent
    try:
        provision.require_own_roles(database, service)
        if not absent:
            provision.require_usable(database, service)
    except SplitError as error:
        place.refuse(f"room for {service.database}", error, "provision", "taken")
        return
    found = Need(f"database {service.database}", "not there" if absent else "its own", "free", True)
    place.add([found], "provision")
    if not absent:
        questions.about_database(place, database, service.project)


def _compare(
    everywhere: Sequence[Place], services: Sequence[Service], connections: Connections
) -> None:
    """Compare the services' servers with the monolith: locales, extensions, and disk."""
    name = connections.monolith
    home = next(place for place in everywhere if name in place.targets)
    monolith = home.asked.get(name)
    if monolith is None or name in home.absent:
        return
    wanted = locale.locale_of(monolith)
    for place in everywhere:
        here = [one for one in services if one.database in place.asked]
        needed = 0
        for service in here:
            database, absent = place.asked[service.database], service.database in place.absent
            extensions, size = questions.held_by(monolith, service)
            needed += questions.TIMES * size
            questions.extensions(place, database, service, extensions, absent=absent)
            if not absent and (notes := locale.difference(monolith, database)):
                has = str(locale.locale_of(database))
                need = Need("locale", has, str(wanted), False, notes[0], is_optional=True)
                place.add([need], "provision", database)
        if here:
            server.disk(place, place.first, needed)
        if any(one.database in place.absent for one in here):
            offered = locale.offers(place.first, wanted)
            said = f"{place.name} does not have the monolith's locale {wanted}: order, ILIKE and"
            said += " lower() may differ in its services."
            shown = f"{wanted.provider} {wanted.locale or wanted.collate}"
            found_there = "offered" if offered else "not there"
            need = Need("monolith's locale", found_there, shown, offered, said, is_optional=True)
            place.add([need], "provision")


def _ask_here(
    machine: Place,
    everywhere: Sequence[Place],
    services: Sequence[Service],
    connections: Connections,
) -> None:
    """Look at what this machine has: folders, programs, PgBouncer's console, commands."""
    name = connections.monolith
    home = next(place for place in everywhere if name in place.targets)
    asked: list[tuple[str, str, Callable[[], object]]] = [
        ("folder of connections", "provision", lambda: env_file.require_folder(connections)),
    ]
    if name in home.asked and name not in home.absent and _reads_all(home):
        asked.append(("backup", "switch", lambda: require_ready(name, connections)))
    if connections.pgbouncer_url:
        ask_it = partial(surroundings.require_pgbouncer, connections)
        asked.append(("PgBouncer's console", "switch", ask_it))
    if connections.after_change:
        ask_shell = partial(surroundings.require_announcement, connections)
        asked.append(("command after a change", "switch", ask_shell))
    for what, purpose, ask in asked:
        try:
            ask()
        except SplitError as error:
            machine.refuse(what, error, purpose)
        except psycopg.Error as error:
            machine.refuse(what, NotReady(str(error).strip()), purpose)
        else:
            machine.add([Need(what, "yes", "yes", True)], purpose)
    for service in services:
        if any(service.database in place.asked for place in everywhere):
            _look_at_file(machine, service, connections)


def _look_at_file(machine: Place, service: Service, connections: Connections) -> None:
    """Name a service's file of routes that is for other servers, such as those of the demo."""
    name = f"file {service.role}.env"
    try:
        routes = load(service, connections)
    except SplitError as error:
        machine.refuse(name, error, "provision")
        return
    for what, hint in faults.strange(service, connections, routes) if routes else ():
        need = Need(name, "of another server", "its own", False, f"{what}.", hint, is_optional=True)
        machine.add([need], "provision")


def _reads_all(home: Place) -> bool:
    """Tell whether nothing keeps a backup from reading the monolith, as far as it was asked."""
    names = ("right on ", "USAGE on ", "member of ", "all rows of ", "may read all")
    return not any(
        one.need.name.startswith(names) for one in home.findings if one.state == "missing"
    )
