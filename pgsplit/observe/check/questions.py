"""What a check asks of each server, and of each database on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.backup.scope import relations_of
from pgsplit.base.errors import NotReady, SplitError
from pgsplit.base.text import few, size
from pgsplit.observe.check.places import Connection, Place
from pgsplit.postgres import clients, locale, managed, rights
from pgsplit.postgres.need import Need
from pgsplit.project.project import Project, Service
from pgsplit.replication import capacity, requirements

HERE = Path(__file__).parent
SERVER, DATABASE, EXTENSIONS = (
    (HERE / f"{name}.sql").read_text(encoding="utf-8")
    for name in ("server", "database", "extensions")
)
OLDEST, NEWEST = 15, 18
# What the runner and dbt open at once while they copy, build and compare.
CONNECTIONS = 20
MANY_BYTES = 1024**3
# A service's database holds its mirror, its own tables, and their indexes.
TIMES = 3
PROGRAMS = ("pg_dump", "pg_restore", "psql")
FDW = "postgres_fdw"
LOCAL = ("localhost", "127.0.0.1", "::1")


def about_server(place: Place, ours: Sequence[str]) -> None:
    """Ask a server for its version, and for what this login may use of it.

    Args:
        place: the server.
        ours: the slots of the services that are checked.
    """
    connection = place.first
    found = _one(connection, SERVER)
    here = managed.dialect(connection)
    place.provider, place.version = here.provider, found["version"].split(" ")[0]
    place.is_super = found["is_super"]
    major = found["number"] // 10000
    place.add(
        [
            Need(
                "version",
                place.version,
                f"{OLDEST} to {NEWEST}",
                OLDEST <= major <= NEWEST,
                f"{place.name} has PostgreSQL {major}."
                + ("" if major < OLDEST else " Nobody has tried this version."),
                "Upgrade the server." if major < OLDEST else "",
                is_optional=major > NEWEST,
            )
        ],
        "everything",
    )
    if connection.info.backend_pid != found["pid"]:
        place.add([_proxy()], "everything")
    place.add(_connections(found, here), "land, build")
    place.add(_others(found, ours), "land")
    if found["expires"]:
        fix = f"ALTER ROLE {found['user']} VALID UNTIL 'infinity';"
        said = f"The password of {place.user} expires on {found['expires']}. Replication that keeps"
        said += " this login stops then."
        place.add(
            [Need("password", "expires soon", "lasts", False, said, fix, is_optional=True)], ""
        )


def _proxy() -> Need:
    said = "A proxy answers, not the server itself; it keeps the settings of a session."
    hint = "If it is a pooler, let the URL name the server."
    return Need("direct connection", "a proxy", "direct", False, said, hint, is_optional=True)


def _connections(found: dict[str, Any], here: managed.Dialect) -> Iterator[Need]:
    free = found["max_connections"] - found["reserved"] - found["connected"]
    change = here.setting("max_connections", found["max_connections"] + CONNECTIONS)
    yield Need(
        "max_connections",
        f"{found['max_connections']}, {found['connected']} used",
        f"{CONNECTIONS} free",
        free >= CONNECTIONS,
        f"Only {max(free, 0)} connections are free; a run opens up to {CONNECTIONS}.",
        change,
        change,
        needs_restart=True,
    )
    limit = found["login_limit"]
    if 0 <= limit < CONNECTIONS:
        fix = f"ALTER ROLE {found['user']} CONNECTION LIMIT -1;"
        said = f"This login may have only {limit} connections; a run opens up to {CONNECTIONS}."
        yield Need("login's connections", str(limit), str(CONNECTIONS), False, said, fix, fix)


def _others(found: dict[str, Any], ours: Sequence[str]) -> Iterator[Need]:
    slots = [one for one in found["slots"] if one["name"] not in ours]
    idle = [one for one in slots if not one["active"] and one["kept"] > MANY_BYTES]
    listed = few([f"{one['name']} ({size(one['kept'])})" for one in idle or slots], 3)
    yield Need(
        "slots of others",
        f"{len(slots)}" if slots else "none",
        "none that is idle",
        not idle,
        f"Nobody reads these slots, and the server keeps WAL for them: {listed}.",
        "If nobody needs them: "
        + " ".join(f"SELECT pg_drop_replication_slot('{one['name']}');" for one in idle),
        is_optional=True,
    )
    if found["slot_time_out"] not in ("0", "0s"):
        said = f"idle_replication_slot_timeout = {found['slot_time_out']} ends a stream that was"
        said += " paused for that long: its mirror has to be copied again."
        fix = "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
        yield Need("slot time-out", found["slot_time_out"], "0", False, said, fix, is_optional=True)
    limit = found["slot_limit"]
    yield Need(
        "max_slot_wal_keep_size", "no limit" if limit == "-1" else limit, "room for a pause", True
    )


def room(place: Place, publishes: Sequence[str], subscribes: Sequence[str]) -> None:
    """Ask a server for room for all streams that it will serve at once.

    Args:
        place: the server.
        publishes: the slots that it is to have.
        subscribes: the subscriptions that it is to have.
    """
    connection = place.first
    if publishes:
        needs = capacity.publishing(connection, publishes, place.name, len(publishes))
        place.add(needs, "land, switch, complete")
    if subscribes:
        server = f"the server {place.name}"
        needs = capacity.subscribing(connection, subscribes, server, len(subscribes))
        place.add(needs, "land, switch, complete")


def about_monolith(place: Place, monolith: Connection, services: Sequence[Service]) -> None:
    """Ask the monolith for every right that an operation will need there.

    Args:
        place: its server.
        monolith: a connection to it.
        services: the services that are checked.
    """
    project = services[0].project
    tables = list(dict.fromkeys(name for one in services for name in one.landed_tables))
    owned = [name for one in services for name in one.owned_tables]
    needs = requirements.rights_on_monolith(monolith, project.schema, tables, owned)
    place.add(_by_statement(needs), "land, switch, rollback, complete", monolith)
    granted = {one.sql for one in needs if not one.ok}
    place.add([_reads_all(monolith, granted)], "switch (its backup), backup", monolith)
    is_needed = reads_through(project)
    problem = f"{place.user} may not make roles: "
    if is_needed:
        problem += "a service that reads through gets one."
        purpose = "build (read-through)"
    else:
        problem += "replication then stores the password of this login at the services' servers."
        purpose = "land (logins of replication)"
    need = rights.may_make_roles(monolith, problem, is_optional=not is_needed)
    place.add([need], purpose)
    found = about_database(place, monolith, project, tables)
    utf8 = found["encoding"] == "UTF8"
    hint = problem = ""
    try:
        locale.require_utf8(monolith)
    except NotReady as error:
        problem, hint = error.what, error.hint
    place.add([Need("encoding", found["encoding"], "UTF8", utf8, problem, hint)], "land", monolith)


def reads_through(project: Project) -> bool:
    """Tell whether services ask the monolith for rows, for which each gets a role there."""
    return any(one.has_read_through for one in project.shared_models)


def _by_statement(needs: Sequence[Need]) -> Iterator[Need]:
    """Put together what one statement grants; what follows from another one is left out."""
    groups: dict[str, list[Need]] = {}
    for need in needs:
        if need.ok:
            yield need
        elif need.sql:
            groups.setdefault(need.sql, []).append(need)
    for statement, group in groups.items():
        name = group[0].name if len(group) == 1 else f"rights on {len(group)} tables"
        said = few([one.problem for one in group], 3)
        yield Need(name, "no", "yes", False, f"The login {said}.", statement, statement)


def _reads_all(monolith: Connection, granted: set[str]) -> Need:
    """Ask whether a backup could read everything, once the owners of tables are granted."""
    user = managed.dialect(monolith)
    unreadable = [
        one.shown
        for one in relations_of(monolith)
        if not one.is_readable and f"GRANT {one.owner} TO {user.user};" not in granted
    ]
    fix = f"GRANT pg_read_all_data TO {user.user};"
    said = f"{monolith.info.user} may not read all that is to be backed up: {few(unreadable, 3)}."
    found = "yes" if not unreadable else f"not {len(unreadable)}"
    return Need("may read all tables", found, "yes", not unreadable, said, fix, fix)


def about_database(
    place: Place, database: Connection, project: Project, tables: Sequence[str]
) -> dict[str, Any]:
    """Ask a database for what others have set and published there.

    Args:
        place: its server.
        database: a connection to it.
        project: the project.
        tables: the monolith's tables that are there.

    Returns:
        All that was found.
    """
    found = _one(database, DATABASE, {"schema": project.schema, "tables": list(tables)})
    user = managed.dialect(database).user
    for one in found["obeyed"]:
        off = "off" if one["name"] == "default_transaction_read_only" else "0"
        fix = f"ALTER ROLE {user} IN DATABASE {found['name']} SET {one['name']} = {off};"
        said = f"{one['name']} = {one['setting']} is set for this login or database; replication"
        said += " obeys it, and stops."
        need = Need(one["name"], one["setting"], off, False, said, fix, fix)
        place.add([need], "land, switch", database)
    undone = ", ".join(found["undone"])
    place.add(
        [Need("time-outs", undone or "none", "none that stays on", True)],
        "everything",
        database,
    )
    names = {f"split_{one}" for one in project.services}
    others = [
        one
        for one in found["publications"]
        if one["name"].removesuffix("_back") not in names and "_from_" not in one["name"]
    ]
    whole = [one["name"] for one in others if one["all"]]
    said = f"{few(whole)} publishes all tables of {database.info.dbname}, this project's own, too."
    place.add(
        [
            Need(
                "publications of others",
                str(len(others)) if others else "none",
                "none of all tables",
                not whole,
                said,
                "Its readers get these rows, too. Let it name its tables.",
                is_optional=True,
            )
        ],
        "land",
        database,
    )
    if 0 <= found["limit"] < CONNECTIONS:
        fix = f"ALTER DATABASE {found['name']} CONNECTION LIMIT -1;"
        said = f"{database.info.dbname} takes only {found['limit']} connections."
        need = Need("its connections", str(found["limit"]), str(CONNECTIONS), False, said, fix, fix)
        place.add([need], "land, build", database)
    return found


def extensions(
    place: Place, database: Connection, service: Service, wanted: Sequence[str], *, absent: bool
) -> None:
    """Ask a service's server for the extensions that its tables and its cache need.

    Args:
        place: its server.
        database: a connection to its database, or to another one if it does not exist yet.
        service: the service.
        wanted: the extensions whose types the monolith's tables have.
        absent: whether its database does not exist yet.
    """
    caches = any(
        service.project.tables[table].columns_for(service.database)
        and service.project.tables[table].owner != service.database
        for one in service.project.shared_models
        if one.has_read_through
        for table in one.follows
    )
    names = [*wanted, *([FDW] if caches else [])]
    for name, is_offered, is_installed in database.execute(EXTENSIONS, (names,)).fetchall():
        is_cache, is_there = name == FDW, is_installed and not absent
        sql = f'CREATE EXTENSION IF NOT EXISTS "{name}";'
        if is_cache:
            sql += f' GRANT USAGE ON FOREIGN DATA WRAPPER {name} TO "{service.owner}";'
        said, hint = f"In {service.database} a superuser has to make the extension {name}.", sql
        if not is_offered:
            said = f"The server {place.name} does not have the extension {name}."
            sql, hint = "", "Install its package, or allow it in the provider's settings."
        elif absent:
            said = f"Once a service's database exists, a superuser has to make {name} in it."
            sql, hint = "", "Check again then: it prints the statements."
        if is_cache:
            said += " Without it the service finds only rows that have arrived."
        need = Need(
            f"extension {name}",
            "installed" if is_there else "offered" if is_offered else "not there",
            "installed",
            is_offered and (is_there or (is_cache and place.is_super)),
            said,
            hint,
            sql,
            is_optional=is_cache or (is_offered and absent),
        )
        place.add([need], "build", None if absent else database)


def programs(place: Place, url: str) -> None:
    """Look for client programs that fit a server."""
    try:
        wanted = clients.needs(url)
        found = [clients.find(name, wanted, 0 if name == "psql" else None) for name in PROGRAMS]
    except SplitError as error:
        place.refuse("client programs", error, "backup, switch, psql")
        return
    tls = " with TLS" if wanted.tls else ""
    shown = ", ".join(dict.fromkeys(str(one.version) for one in found))
    need = Need("client programs", f"{shown}{tls}", f"{wanted.version} or later{tls}", True)
    place.add([need], "backup, switch, psql")


def disk(place: Place, database: Connection, needed: int) -> None:
    """Ask how much room a service's server has, where this login and this machine may know."""
    free = None
    if place.host.startswith("/") or place.host in LOCAL:
        with suppress(psycopg.errors.InsufficientPrivilege, OSError):
            row = database.execute("select current_setting('data_directory')").fetchone()
            free = shutil.disk_usage(row[0]).free if row else None
    found = size(free) if free is not None else "not known here"
    said = f"{place.name} has {found} of disk free; its services need about {size(needed)}."
    ok = free is None or free >= needed
    place.add(
        [Need("free disk", found, f"about {size(needed)}", ok, said, "Give it more.")], "land"
    )


def _one(database: Connection, query: str, parameters: Any = None) -> dict[str, Any]:
    row = database.execute(query, parameters).fetchone()
    assert row is not None
    return dict(row[0])
