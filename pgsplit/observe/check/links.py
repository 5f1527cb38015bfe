"""Whether each server reaches the ones that it will follow, asked from that server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgsplit.observe.check.places import Connection, Place
from pgsplit.postgres import refusals, rights
from pgsplit.postgres.connect import connect, with_database
from pgsplit.postgres.need import Need
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import login, reach, shared

# How a source refuses a login that lacks REPLICATION: it has been reached.
REACHED = ("WAL sender", "walsender")
CREATES = "select has_database_privilege(current_database(), 'create')"
TRIAL = "split_check_"
REACHES = "reaches other servers"
LEFT_OVER = """
    select datname from pg_catalog.pg_database
    where
        datname ~ '^split_check_[0-9]+$' and pg_get_userbyid(datdba) = current_user
        and not exists (
            select from pg_catalog.pg_stat_activity
            where pid::text = substr(datname, 13)
        )
"""


@dataclass(frozen=True)
class Link:
    """A stream to come: its name, and the targets that publish and subscribe."""

    name: str
    source: str
    target: str
    purpose: str


def links(services: Sequence[Service], monolith: str) -> list[Link]:
    """Name all streams that services will ever have."""
    found = []
    for one in services:
        found.append(Link(one.replication, monolith, one.database, "land"))
        found.append(Link(one.reverse_replication, one.database, monolith, "switch"))
        for consumer in shared.consumers(one):
            name = f"{consumer.replication}_from_{one.database}"
            found.append(Link(name, one.database, consumer.database, "complete"))
    return found


def try_from(
    place: Place, wanted: Sequence[Link], everywhere: Sequence[Place], connections: Connections
) -> None:
    """Let a server log in to all that it will follow.

    Args:
        place: the server that subscribes.
        wanted: the streams to its targets.
        everywhere: all servers.
        connections: where all targets are.
    """
    if place.first.execute("select pg_is_in_recovery()").fetchone() == (True,):
        return  # nobody can subscribe there, which is named already
    makes = [one for one in rights.may_provision(place.first) if one.name == "CREATEDB"]
    if not (rights.may_subscribe(place.first).ok and (makes[0].ok or _home(place))):
        said = f"{place.name} can't be asked yet whether it reaches the other servers: {place.user}"
        said += " may not subscribe there."
        hint = "Paste the statements, then check again."
        need = Need(REACHES, "can't be asked yet", "yes", False, said, hint, is_optional=True)
        place.add([need], "land, switch")
        return
    answers: dict[tuple[str, str], str] = {}
    with _inside(place, connections) as database:
        for link in wanted:
            source_place = next(one for one in everywhere if link.source in one.targets)
            if link.source not in source_place.asked:
                continue  # what is wrong there is said there
            source = source_place.asked[link.source]
            is_absent = link.source in source_place.absent
            url = connections.for_servers(link.source)
            url = with_database(url, source.info.dbname) if is_absent else ""
            key = (link.source, source.info.dbname)
            if key not in answers:
                answers[key] = _try(database, source, link, url, connections)
                place.add([_answer(place, link, answers[key], connections)], link.purpose)
                _let_in(source_place, link, answers[key], url, connections)


def _answer(place: Place, link: Link, said: str, connections: Connections) -> Need:
    variable = connections.project.variable("REPLICATION_URL", link.source)
    problem = f"The server {place.name} can't reach {link.source}: {said}"
    url = connections.for_servers(link.source)
    hint = "Give a URL by which that server reaches it, with a login that may replicate:\n"
    hint += login.command_for(variable, url, host="HOST")
    found = "no" if said else "yes"
    return Need(f"reaches {link.source}", found, "yes", not said, problem, hint)


def _let_in(source: Place, link: Link, said: str, url: str, connections: Connections) -> None:
    """Note what a statement at the source would fix, such as a right to connect."""
    where = conninfo_to_dict(url or connections.for_servers(link.source))
    given = {key: str(value) for key, value in where.items()}
    found = refusals.explain(said, "", given)
    if said and found.sql:
        problem = f"{found.what}: {given['user']}, by which other servers reach {link.source}."
        name = f"{given['user']} to {link.source}"
        source.add([Need(name, "no", "yes", False, problem, found.hint, found.sql)], link.purpose)


def _try(
    database: Connection, source: Connection, link: Link, url: str, connections: Connections
) -> str:
    said = reach.cannot_reach(database, source, link.name, link.source, connections, url)
    return "" if any(one in said for one in REACHED) else said


def _home(place: Place) -> Connection | None:
    """Find a database in which this login may create a subscription."""
    asked = place.asked.values()
    return next((one for one in asked if one.execute(CREATES).fetchone() == (True,)), None)


@contextmanager
def _inside(place: Place, connections: Connections) -> Iterator[Connection]:
    """Give a database in which this login may create a subscription; one for the trial if none."""
    if home := _home(place):
        yield home
        return
    target, server = next(iter(place.asked.items()))
    name = f"{TRIAL}{server.info.backend_pid}"
    for (left,) in server.execute(LEFT_OVER).fetchall():  # by a check that was killed
        _drop(server, left)
    server.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    try:
        with connect(with_database(connections.urls[target], name), target) as inside:
            yield inside
    finally:
        _drop(server, name)


def _drop(server: Connection, name: str) -> None:
    server.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(name)))
