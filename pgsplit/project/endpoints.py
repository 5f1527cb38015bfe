"""The databases' URLs, from the project's settings, and connections to them.

`NAME_URL` is the URL of the target `name`: the monolith or a service's database. A service without
a URL is a database on the monolith's server. Without any URL, everything is on the embedded server.
The project's `profiles.yml` has the same rules for dbt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.base.text import duration, percent
from pgsplit.postgres import embedded_url, refusals, service_file, session_settings
from pgsplit.postgres.connect import (
    DEFAULTS,
    connect,
    describe,
    fields_of,
    same_database,
    url_of,
)
from pgsplit.postgres.throttle.unthrottled import AT_WORK, ONE_PROCESS, Place, Unthrottled
from pgsplit.project import strangers
from pgsplit.project.page_url import page_url
from pgsplit.project.project import Project
from pgsplit.project.settings import Settings

# How long a statement on the monolith waits for a lock, unless it says otherwise.
LONGEST_WAIT = "10s"
MAX_LAG_SECONDS = 300.0  # a longer lag is a warning, unless a setting says otherwise
RESERVED = ("postgres", "template0", "template1")


@dataclass(frozen=True)
class Connections:
    """The URLs of a project's targets, and whether they are on the embedded server.

    `folder` has the files with each service's routes. `dbt_folder` is for dbt's files, if they
    shall not be in the project. `application_url` is the URL by which applications log in to the
    monolith, and empty if none was given: then it is what they have used so far. `pgbouncer_url` is
    empty without a PgBouncer, and `after_change` if no command shall run after routes have changed.
    `notify` is a command, and `notify_url` a webhook, that notices go to. `health_urls` are the
    pages, by service, that say how its application is. `throttle` is the one that is on, and
    `max_impact` what it allows by default.
    """

    project: Project
    urls: Mapping[str, str]
    embedded: bool
    replication_url: str
    folder: Path
    dbt_folder: Path | None = None
    application_url: str = ""
    pgbouncer_url: str = ""
    after_change: str = ""
    notify: str = ""
    notify_url: str = ""
    max_lag_seconds: float = MAX_LAG_SECONDS
    replication_urls: Mapping[str, str] = field(default_factory=dict)
    health_urls: Mapping[str, str] = field(default_factory=dict)
    max_impact: float | None = None
    throttle: Unthrottled = field(default_factory=Unthrottled, repr=False, compare=False)
    _own: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def monolith(self) -> str:
        """The monolith's target name."""
        return self.project.name

    @property
    def has_monolith(self) -> bool:
        """Whether there is a monolith; once all services are completed it may be gone."""
        return self.monolith in self.urls

    def require_monolith(self) -> None:
        """Refuse what needs the monolith if there is none any more; else NotReady."""
        if not self.has_monolith:
            variable = self.project.variable("URL")
            raise NotReady(
                f"This needs the monolith, and {variable} is not set: the services live without"
                " it.",
                where=describe(self.control_url),
                hint=f"If there is one: export {variable}=postgresql://USER@HOST/DATABASE",
            )

    @property
    def monolith_url(self) -> str:
        """The monolith's URL.

        Raises:
            NotReady: there is no monolith any more.
        """
        self.require_monolith()
        return self.urls[self.monolith]

    @property
    def control(self) -> str:
        """The control database's target name: it has the ledger and the services' states.

        It is the monolith, unless it has moved.
        """
        moved = control_of(self.project)
        return moved if moved in self.urls else self.monolith

    @property
    def control_url(self) -> str:
        """The control database's URL."""
        return self.urls[self.control]

    def url(self, target: str) -> str:
        """Give a target's URL.

        Raises:
            NotReady: it is the monolith, and there is none any more.
        """
        return self.monolith_url if target == self.monolith else self.urls[target]

    def environ(self) -> dict[str, str]:
        """Give the environment in which dbt finds the same databases."""
        return {f"{target.upper()}_URL": url for target, url in self.urls.items()}

    def for_servers(self, target: str) -> str:
        """Give the URL by which the other servers reach a target, for replication."""
        if target == self.monolith:
            return self.replication_url
        return self.replication_urls.get(target) or self.urls[target]

    def is_for_servers(self, target: str) -> bool:
        """Tell whether an operator has chosen the URL by which the other servers reach a target."""
        return self.for_servers(target) != self.urls[target]

    def connect(self, target: str, **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Open an autocommit connection to a target; see `connect`.

        Args:
            target: the monolith, the control database or a service's database.
            parameters: further connection parameters, such as `application_name`.

        Returns:
            A psycopg connection; as a context manager it closes itself.

        Raises:
            ConnectionFailed: the server can't be reached or refuses; the message says why.
            NotReady: it is the monolith, and there is none any more.
            TargetOccupied: somebody else owns, or may change, what is this project's there. It is
                asked once.
        """
        database = self.connect_to_any(target, **parameters)
        if target not in self._own and "replication" not in parameters:
            try:
                strangers.require_none(database, self.project, target)
            except BaseException:
                database.close()
                raise
            self._own.add(target)
        if target in (self.monolith, self.control) and "replication" not in parameters:
            # An application may lock its tables for as long as it likes.
            database.execute(f"set lock_timeout = '{LONGEST_WAIT}'")
            database.execute(session_settings.ONLY_TABLES)
        return database

    def place(self, target: str) -> Place:
        """Give a target as the throttle knows it: its own sessions there are not slowed."""
        return Place(target, partial(connect, self.url(target), target))

    @property
    def naming(self) -> dict[str, str]:
        """Connection parameters by which the throttle finds a session, if it is on."""
        return {"application_name": AT_WORK} if self.throttle.is_on else {}

    def connect_to_any(self, target: str, **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Do the same whoever owns what is there, and with no setting that a command needs.

        Raises:
            ConnectionFailed: the server can't be reached or refuses; the message says why.
            NotReady: it is the monolith, and there is none any more.
        """
        try:
            database = connect(self.url(target), target, **{**self.naming, **parameters})
            if self.throttle.is_on and "replication" not in parameters:
                self.throttle.join(self.place(target))
                database.execute(ONE_PROCESS)
            return database
        except ConnectionFailed as error:
            if target == self.monolith:  # which no command makes
                error.hint = error.hint.replace(refusals.PROVISION, "")
            raise


def control_of(project: Project) -> str:
    """Give the target name of a control database that is not the monolith."""
    return f"{project.name}_control"


def resolve(
    project: Project, environ: Mapping[str, str] = os.environ, home: Path | None = None
) -> Connections:
    """Find a project's databases from its settings, or on the embedded server.

    Args:
        project: the project.
        environ: the environment; `Settings` adds what files say. `NAME_URL` is the URL of the
            target `name`. The optional `NAME_REPLICATION_URL` is the URL by which the other
            *servers* reach it, if their network names differ from the runner's. With the monolith's
            name, `…_CONNECTIONS` is the folder of the services' routes, `…_APPLICATION_URL` the URL
            by which applications log in to the monolith, `…_CONTROL_URL` that of the control
            database if it has moved, and `…_AFTER_CHANGE` a command to run after routes have
            changed.
            `PGBOUNCER_ADMIN_URL` is the console of PgBouncer, and `ROLE_HEALTH_URL` a page that
            says how a service's application is.
        home: the folder of the embedded server; by default the project's.

    Returns:
        A URL for every target, with host, port, user and database filled in.

    Raises:
        NotReady: a settings file can't be read, or has a name that is no setting.
        ConnectionFailed: a value is no PostgreSQL URL, a service has a URL but the monolith has
            none, or two targets are the same database.
    """
    settings = Settings(project, environ)
    name, services, variable = project.name, project.services, project.variable
    folder = Path(settings.get(variable("CONNECTIONS")) or project.root / "connections")
    given = {target: settings.get(variable("URL", target), "") for target in project.targets}
    pointing: dict[str, Any] = {
        "application_url": _given(settings, variable("APPLICATION_URL"), name),
        "pgbouncer_url": _given(settings, "PGBOUNCER_ADMIN_URL", "pgbouncer"),
        "after_change": settings.get(variable("AFTER_CHANGE"), ""),
        "notify": settings.get(variable("NOTIFY"), ""),
        "notify_url": settings.get(variable("NOTIFY_URL"), ""),
        "max_lag_seconds": _max_lag(settings, variable("MAX_LAG")),
        "max_impact": _max_impact(settings, variable("MAX_IMPACT")),
        "replication_urls": {
            one: settings.get(variable("REPLICATION_URL", one), "") for one in services
        },
        "health_urls": {
            name: page_url(settings, one.health_variable) for name, one in services.items()
        },
    }
    control = _control(settings, project)
    if not any(given.values()) and not control:
        urls = {target: embedded_url.url(home or project.root, target, name) for target in given}
        return Connections(project, urls, True, urls[name], folder, **pointing)
    if not given[name] and control:
        return _without_monolith(project, settings, given, control, folder, pointing)
    if not given[name]:
        named = ", ".join(f"{t.upper()}_URL" for t, url in given.items() if url)
        raise ConnectionFailed(
            f"{named} is set but {variable('URL')} is not.",
            where="the environment",
            hint=f"export {variable('URL')}=postgresql://USER:PASSWORD@HOST/{name}",
        )

    monolith = _parse(settings, variable("URL"))
    fields = {name: {"dbname": name, **monolith}}
    if control:
        fields[control_of(project)] = fields_of(control)
    for service in services:
        fields[service] = (
            {"dbname": service, **_parse(settings, variable("URL", service))}
            if given[service]
            else {**monolith, "dbname": service}
        )
    urls = _apart(fields)
    replication = settings.get(variable("REPLICATION_URL")) or urls[name]
    return Connections(project, urls, False, replication, folder, **pointing)


def _without_monolith(
    project: Project,
    settings: Settings,
    given: Mapping[str, str],
    control: str,
    folder: Path,
    pointing: Mapping[str, Any],
) -> Connections:
    """Give the databases of a project whose monolith is gone: each service has its own URL."""
    lacking = [project.variable("URL", one) for one in project.services if not given[one]]
    if lacking:
        raise ConnectionFailed(
            f"{', '.join(lacking)} is not set, and neither is {project.variable('URL')}, beside"
            " which a service without a URL is.",
            where="the environment",
            hint="\n".join(f"export {one}=postgresql://USER@HOST/DATABASE" for one in lacking),
        )
    fields = {control_of(project): fields_of(control)}
    for service in project.services:
        fields[service] = {
            "dbname": service,
            **_parse(settings, project.variable("URL", service)),
        }
    return Connections(project, _apart(fields), False, "", folder, **pointing)


def _control(settings: Settings, project: Project) -> str:
    """Give the control database's URL; nothing if it is the monolith."""
    variable = project.variable("CONTROL_URL")
    url = _given(settings, variable, control_of(project))
    is_given = url and settings.get(project.variable("URL"), "")
    monolith = _given(settings, project.variable("URL"), project.name) if is_given else ""
    return "" if monolith and same_database(url, monolith) else url


def _apart(fields: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """Give the targets' URLs; refuse two that are one database, or that can't be used."""
    seen: dict[tuple[str, str, str], str] = {}
    for target, found in fields.items():
        place = (found["host"], found["port"], found["dbname"])
        if found["dbname"] in RESERVED or set(found["dbname"]) & set("'\"\\"):
            raise ConnectionFailed(
                f"{target} can't be the database {found['dbname']}.",
                where=f"{found['host']}:{found['port']}",
                hint=f"Give {target.upper()}_URL a database of its own, with a plain name.",
            )
        if place in seen:
            raise ConnectionFailed(
                f"{seen[place]} and {target} are the same database, {found['dbname']}.",
                where=f"{found['host']}:{found['port']}",
                hint=f"Give {target.upper()}_URL a database of its own.",
            )
        seen[place] = target
    return {target: url_of(found) for target, found in fields.items()}


def _given(settings: Settings, variable: str, database: str) -> str:
    """Give an optional URL with all parts filled in, or nothing."""
    is_given = settings.get(variable)
    return url_of({"dbname": database, **_parse(settings, variable)}) if is_given else ""


def _max_lag(settings: Settings, variable: str) -> float:
    given = settings.get(variable, "")
    found = duration(given) if given else MAX_LAG_SECONDS
    if not found:
        raise NotReady(
            f"{variable} is {given!r}, which is no length of time.",
            where=settings.where(variable),
            hint=f"export {variable}=5min",
        )
    return found


def _max_impact(settings: Settings, variable: str) -> float | None:
    given = settings.get(variable, "")
    found = percent(given) if given else None
    if given and not found:
        raise NotReady(
            f"{variable} is {given!r}, which is no share such as 10%.",
            where=settings.where(variable),
            hint=f"export {variable}=10%",
        )
    return found


def _parse(settings: Settings, variable: str) -> dict[str, str]:
    try:
        given = conninfo_to_dict(settings[variable])
        found = {k: str(v) for k, v in given.items() if v not in (None, "")}
    except psycopg.ProgrammingError:
        found = {}
    unquoted = "@" in found.get("dbname", "") + found.get("host", "")
    if not found or unquoted or not {**DEFAULTS, **found}["port"].isdigit():
        # libpq's message may quote the password, so neither it nor the value is repeated.
        raise ConnectionFailed(
            f"{variable} is no PostgreSQL URL.",
            where=settings.where(variable),
            hint=f"export {variable}=postgresql://USER:PASSWORD@HOST:5432/DATABASE\n"
            "with a password's @ and / written as %40 and %2F, and without Prisma's ?schema=…",
        )
    if name := found.pop("service", ""):
        there = service_file.parameters(name)
        if there is None:
            raise ConnectionFailed(
                f"{variable} takes the service {name}, which no service file has.",
                where=str(next(service_file.files())),
                hint="Add a section for it, or export PGSERVICEFILE=/path/to/the/file",
            )
        found = {**there, **found}
    return {**DEFAULTS, **found}
