"""What a completed service's team gets: a first migration, roles, and what others share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgsplit.backup.ddl import Definitions, definitions
from pgsplit.base import files
from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.observe.citus import plan as citus
from pgsplit.observe.prisma import schema_file
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import forgotten
from pgsplit.replication.slot import Connection
from pgsplit.state.control import open_control
from pgsplit.state.ledger import State, state

SHARED = """
    select
        known.table_name, known.column_name, known.services,
        array(
            select format('%s.%s', service_table, service_column) from split.shared_reads as read
            where read.table_name = known.table_name and read.column_name = known.column_name
            order by 1
        )
    from split.shared_columns as known
    where known.services <> '{}'
    order by known.table_name, known.place
"""
# Rights in the service's schema of roles that are neither its owner nor ours.
RIGHTS = """
    with

    objects as (
        select 'schema' as kind, format('%%I', nspname) as name, '' as part, nspacl as acl
        from pg_namespace where nspname = %(schema)s
        union all
        select
            case relkind when 'S' then 'sequence' else 'table' end,
            format('%%I.%%I', nspname, relname), '', relacl
        from pg_class inner join pg_namespace on pg_namespace.oid = relnamespace
        where nspname = %(schema)s and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        union all
        select 'table', format('%%I.%%I', nspname, relname), format(' (%%I)', attname), attacl
        from pg_attribute
        inner join pg_class as class on class.oid = attrelid
        inner join pg_namespace on pg_namespace.oid = relnamespace
        where nspname = %(schema)s and attacl is not null and not attisdropped
    )

    select
        coalesce(quote_ident(rolname), 'public') as grantee, rolcanlogin, kind, name,
        string_agg(lower(privilege_type) || part, ', ' order by privilege_type)
    from objects
    cross join aclexplode(acl) as rights
    left join pg_roles on pg_roles.oid = grantee
    where
        coalesce(rolname, '') <> all(%(ours)s) and not coalesce(rolsuper, false)
        and grantee is distinct from to_regrole(%(owner)s)
    group by 1, 2, 3, 4
    order by 1, kind <> 'schema', 4
"""
NEXT = {
    State.ABSENT: "run",
    State.PROVISIONED: "run",
    State.LANDED: "run",
    State.BUILT: "verify",
    State.VERIFIED: "switch",
    State.SWITCHED: "complete",
}


@dataclass(frozen=True)
class Share:
    """A column of the mirror that others share, and the service's columns that it is made from."""

    table: str
    column: str
    services: tuple[str, ...]
    made_from: tuple[str, ...]


@dataclass
class Handover:
    """What was written for a service's team, and what is not in it; `runner` is the login of ours
    that has to know the team's.
    """

    service: Service
    folder: Path
    tool: str
    files: list[str] = field(default_factory=list)
    runner: str = ""
    shared: tuple[Share, ...] = ()
    roles: tuple[str, ...] = ()
    distribution: citus.Plan | None = None
    warnings: list[str] = field(default_factory=list)


def hand_over(service: Service, connections: Connections, folder: Path, tool: str) -> Handover:
    """Write what a completed service's team needs into a folder; reads only, in all databases.

    Args:
        service: a completed service.
        connections: where the servers are.
        folder: made if it is not there; files that differ from what would be written are kept.
        tool: the team's migration tool, one of `TOOLS`.

    Returns:
        What was written.

    Raises:
        NotReady: the service is not completed, its tables can't be distributed as its models say,
            or the folder can't be written.
        TargetOccupied: a file is there and differs; nothing was written.
    """
    done = Handover(service, folder, tool)
    with open_control(connections) as control:
        stands = state(control, service)
    if stands is not State.COMPLETED:
        raise NotReady(
            f"{service.database} is {stands.value}, not completed: until then its tables are not"
            " its team's alone. Nothing was written.",
            where=describe(connections.control_url),
            hint=f"Next: runner.py {NEXT[stands]} {service.role}",
        )
    with connections.connect(service.database) as database:
        if not forgotten.knows_completion(database):
            raise NotReady(
                f"{service.database} is completed, and its database does not know. Nothing was"
                " written.",
                where=describe(database.info.dsn),
                hint=f"runner.py repair {service.role}",
            )
        done.runner = database.info.user
        done.shared = tuple(
            Share(table, column, tuple(services), tuple(made_from))
            for table, column, services, made_from in database.execute(SHARED)
        )
        roles, done.roles = _roles(service, database)
        done.distribution = citus.plan(service, database)
    made = definitions(service, connections)
    if made.foreign_types:
        done.warnings.append(
            f"The migration does not make these types, which its columns have from other schemas:"
            f" {', '.join(made.foreign_types)}. Make them first, or move them:"
            f" alter type … set schema {service.database};"
        )
    contents = {
        **TOOLS[tool](made),
        "roles.sql": roles,
        "HANDOVER.md": _page(done),
    }
    if tool == "prisma":
        contents["prisma/schema.prisma"] = schema_file.make(service, connections, None).text
    if done.distribution:
        contents["citus.sql"] = done.distribution.text
    done.files = sorted(contents)
    _write(folder, contents)
    return done


def _sql(made: Definitions) -> Mapping[str, str]:
    return {"migrations/0001_initial.sql": made.text}


def _flyway(made: Definitions) -> Mapping[str, str]:
    return {"sql/V1__initial.sql": made.text}


def _prisma(made: Definitions) -> Mapping[str, str]:
    return {
        "prisma/migrations/0_init/migration.sql": made.text,
        "prisma/migrations/migration_lock.toml": 'provider = "postgresql"\n',
    }


def _alembic(made: Definitions) -> Mapping[str, str]:
    return {
        "versions/0001_initial.sql": made.text,
        "versions/0001_initial.py": '''"""The schema as it was handed over."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = branch_labels = depends_on = None


def upgrade() -> None:
    """Make it in an empty database."""
    with op.get_bind().connection.cursor() as cursor:
        cursor.execute(Path(__file__).with_suffix(".sql").read_text("utf-8"))


def downgrade() -> None:
    """There is nothing before it."""
    raise NotImplementedError("The first migration can't be taken back.")
''',
    }


TOOLS: Mapping[str, Callable[[Definitions], Mapping[str, str]]] = {
    "sql": _sql,
    "prisma": _prisma,
    "flyway": _flyway,
    "alembic": _alembic,
}
# The live database has all of it already: it is told so, and runs the next one.
APPLIED = {
    "sql": "Don't run the first migration in the live database: it has all of it.",
    "prisma": "In the live database: npx prisma migrate resolve --applied 0_init. Its URL ends in"
    " ?schema={schema}: the owner may not make Prisma's list of migrations in public.",
    "flyway": "In the live database: flyway baseline -baselineVersion=1",
    "alembic": "In the live database: alembic stamp 0001",
}


def _roles(service: Service, database: Connection) -> tuple[str, tuple[str, ...]]:
    """Give statements that make the roles and their rights in another database; and the roles."""
    streams = database.execute(
        "select rolname from pg_roles where starts_with(rolname, %s) or rolname = session_user",
        (f"{service.replication}_",),
    ).fetchall()
    values = {
        "schema": service.database,
        "owner": service.owner,
        "ours": [service.replication, *(name for (name,) in streams)],
    }
    rights = database.execute(RIGHTS, values).fetchall()
    row = database.execute(
        "select quote_ident(%s), quote_ident(%s)", (service.owner, service.login)
    ).fetchone()
    assert row is not None
    owner, own_login = row
    names = {own_login: True, **{name: login for name, login, *_ in rights if name != "public"}}
    lines = [
        "-- The owner makes and changes the tables; migrations run as one of its members.",
        f"create role {owner} nologin;",
        *(f"create role {name} {'login' if names[name] else 'nologin'};" for name in sorted(names)),
        "-- After the first migration, which a member of the owner runs:",
        *(
            f"grant {privileges} on {kind} {name} to {grantee};"
            for grantee, _, kind, name, privileges in rights
        ),
    ]
    return "\n".join(lines) + "\n", (owner, *sorted(names))


def _page(done: Handover) -> str:
    """Write the page that says what is what."""
    service = done.service
    lines = [
        f"# {service.database}",
        "",
        f"The tables of {service.database} belong to their team. This is what it starts from.",
        "",
        f"- The first migration makes the schema in an empty database. "
        f"{APPLIED[done.tool].format(schema=done.service.database)}",
        f"- Later migrations run in the live database as a login that is a member of"
        f" {service.owner}. Such a login can change what the runner runs here, so the runner stops"
        f" until it knows that it is yours: `grant {service.owner} to DEPLOYER; grant DEPLOYER to"
        f' "{done.runner}";`. What a migration makes belongs to the owner with `alter role DEPLOYER'
        f" set role {service.owner};`.",
        "- `roles.sql` makes the roles in another database, such as a developer's.",
        "- Left out is what keeps the copies of other services' rows up to date, and works only in"
        " the live database: triggers named `split_…` and the schema `split`.",
        *(f"- {warning}" for warning in done.warnings),
        "",
        "## What others share",
        "",
    ]
    distributed = citus.page(done.distribution) if done.distribution else ()
    if not done.shared:
        lines += ["Nobody shares any column. All of it may change.", *distributed]
        return "\n".join(lines) + "\n"
    lines += [
        "These columns have to stay, with values of the same type. Everything else may change.",
        f"After each migration: `runner.py status {service.role}`.",
        "",
        "| column | others get it as | who shares it |",
        "|---|---|---|",
        *(
            f"| {', '.join(one.made_from)} | {service.mirror}.{one.table}.{one.column}"
            f" | {', '.join(one.services)} |"
            for one in done.shared
        ),
        *distributed,
    ]
    return "\n".join(lines) + "\n"


def _write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write the files, unless one is there with something else in it."""
    try:
        for name, text in contents.items():
            path = folder / name
            if path.exists() and path.read_text(encoding="utf-8") != text:
                raise TargetOccupied(
                    "The file is there already, and is not what this command would write."
                    " Nothing was written.",
                    where=str(path),
                    hint="Name another folder: --to DIR, then compare the two: diff -r",
                )
        for name, text in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, text)
            path.chmod(0o644)  # it holds no secret
    except (OSError, UnicodeError) as error:
        raise NotReady(
            f"The folder can't be written: {error}",
            where=str(folder),
            hint="Name a folder that you may write to: --to DIR",
        ) from error
