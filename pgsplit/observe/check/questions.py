"""What a check asks of the monolith, and of each service's database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.backup.scope import relations_of
from pgsplit.base.errors import NotReady, SplitError
from pgsplit.base.text import few
from pgsplit.observe.check.places import Connection, Place
from pgsplit.observe.check.server import CONNECTIONS, one_document
from pgsplit.postgres import locale, managed, rights
from pgsplit.postgres.need import Need
from pgsplit.project import drift
from pgsplit.project.project import Project, Service
from pgsplit.replication import requirements
from pgsplit.state.ledger import completed

HERE = Path(__file__).parent
DATABASE, LANDED, EXTENSIONS = (
    (HERE / f"{name}.sql").read_text(encoding="utf-8")
    for name in ("database", "landed", "extensions")
)
# A service's database holds its mirror, its own tables, and their indexes.
TIMES = 3
# A query in a file has no parameters.
FOLLOWED = "select set_config('split.followed', %s, false)"
FDW = "postgres_fdw"


def about_monolith(place: Place, monolith: Connection, services: Sequence[Service]) -> None:
    """Ask the monolith for every right that an operation will need there.

    Args:
        place: its server.
        monolith: a connection to it.
        services: the services that are checked.
    """
    project = services[0].project
    landed = _still_there(monolith, project, landed_by(services))
    tables = list(landed)
    owned = [name for one in services for name in one.owned_tables if name in landed]
    try:
        drift.check(project, monolith, landed)
    except SplitError as error:
        place.refuse("tables as expected", error, "land", "not all")
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
    found = about_database(place, monolith, project)
    utf8 = found["encoding"] == "UTF8"
    hint = problem = ""
    try:
        locale.require_utf8(monolith)
    except NotReady as error:
        problem, hint = error.what, error.hint
    place.add([Need("encoding", found["encoding"], "UTF8", utf8, problem, hint)], "land", monolith)


def _still_there(
    monolith: Connection, project: Project, landed: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Leave out the tables of completed services: they are retired."""
    gone: frozenset[str] = frozenset()
    # Before the first landing nobody is completed, and afterwards other commands name this right.
    with suppress(psycopg.errors.InsufficientPrivilege):
        gone = completed(monolith)
    return {name: has for name, has in landed.items() if project.tables[name].owner not in gone}


def landed_by(services: Sequence[Service]) -> dict[str, tuple[str, ...]]:
    """Name the monolith's tables that services follow, with their columns."""
    found: dict[str, tuple[str, ...]] = {}
    for one in services:
        for table, columns in one.landed_tables.items():
            found[table] = tuple(dict.fromkeys((*found.get(table, ()), *columns)))
    return found


def held_by(monolith: Connection, service: Service) -> tuple[list[str], int]:
    """Ask for the extensions and the size of what a service follows.

    Args:
        monolith: a connection to it.
        service: the service.

    Returns:
        The extensions whose types its columns have, and the bytes of its tables.
    """
    tables = service.landed_tables
    columns = [f"{table}.{column}" for table, names in tables.items() for column in names]
    given = {"schema": service.mirror, "tables": list(tables), "columns": columns}
    monolith.execute(FOLLOWED, (json.dumps(given),))
    found = one_document(monolith, LANDED)
    return found["extensions"], found["bytes"]


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
        said = few(list(dict.fromkeys(one.problem for one in group)), 3)
        yield Need(group[0].name, "no", "yes", False, f"The login {said}.", statement, statement)


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


def about_database(place: Place, database: Connection, project: Project) -> dict[str, Any]:
    """Ask a database for what others have set and published there.

    Args:
        place: its server.
        database: a connection to it.
        project: the project.

    Returns:
        All that was found.
    """
    found, here = one_document(database, DATABASE), managed.dialect(database)
    user = here.user
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
    if here.provider is managed.SELF_MANAGED:
        fix = f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {user};"
        said = f"In {database.info.dbname} a backup makes no restore point: {place.user} may not."
        may = bool(found["makes_restore_points"])
        need = Need("restore points", "yes" if may else "no", "yes", may, said, fix, fix, True)
        place.add([need], "backup", database)
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
    database.execute(FOLLOWED, (json.dumps(names),))
    for name, is_offered, is_installed in database.execute(EXTENSIONS.encode()).fetchall():
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
