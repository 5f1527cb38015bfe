"""A project: a monolith and its services.

A project is a dbt project with a few conventions. `dbt_project.yml` gives its name. This is also
the monolith's target, the prefix of the environment's variables, and the monolith's schema, unless
its variable `monolith_schema` names another one. `seeds/services.csv` lists the services.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pgsplit.base.errors import NotReady, SplitError

PROJECT_FILE = "dbt_project.yml"
SOURCES_FILE = Path("models") / "_sources.yml"
SERVICES_FILE = Path("seeds") / "services.csv"
SHARED_FOLDER = Path("models") / "shared"
OWNERSHIP_FILE = Path("seeds") / "column_ownership.csv"
# libyaml, which nearly every wheel has, reads the sources in a tenth of the time.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Service:
    """A service: its database, its phase in the order of splitting, and its role."""

    database: str
    phase: int
    role: str
    holds: str
    project: Project = field(repr=False, compare=False)

    @property
    def mirror(self) -> str:
        """The schema in its database that mirrors the monolith's tables."""
        return self.project.schema

    @property
    def landed_tables(self) -> dict[str, tuple[str, ...]]:
        """The mirror's tables with their columns, by name; owned ones first."""
        held = {one.name: one.columns_for(self.database) for one in self.project.tables.values()}
        names = sorted(held, key=lambda name: (name not in self.owned_tables, name))
        return {name: held[name] for name in names if held[name]}

    @property
    def owned_tables(self) -> dict[str, tuple[str, ...]]:
        """The monolith's tables that it owns, with all their columns, by name."""
        tables = sorted(self.project.tables.items())
        return {name: tuple(one.columns) for name, one in tables if one.owner == self.database}

    @property
    def owner(self) -> str:
        """The role that owns the database and everything in it; nobody can log in as it."""
        return f"{self.role}_owner"

    @property
    def login(self) -> str:
        """The role as which the service itself connects."""
        return f"{self.role}_service"

    @property
    def health_variable(self) -> str:
        """The variable with the URL of its application's health page."""
        return f"{self.role.upper()}_HEALTH_URL"

    @property
    def mark(self) -> str:
        """The comment on its roles, and on the schema `split` in its database."""
        return f"made by the {self.project.name} split for {self.database}"

    @property
    def mirror_mark(self) -> str:
        """The comment on each table of the mirror."""
        return f"mirror of the monolith's table, made by the {self.project.name} split"

    @property
    def replication(self) -> str:
        """The name of the service's publication, slot and subscription."""
        return f"split_{self.database}"

    @property
    def reverse_replication(self) -> str:
        """The name of these three for reverse replication, to the monolith."""
        return f"{self.replication}_back"


@dataclass(frozen=True)
class Table:
    """A table of the monolith: its columns' types, its future owner, and who may see which.

    The owner is empty if the table goes nowhere.
    """

    name: str
    owner: str
    columns: Mapping[str, str]
    shared: Mapping[str, tuple[str, ...]]
    unique: tuple[str, ...] = ()

    def columns_for(self, database: str) -> tuple[str, ...]:
        """Name the columns in a service's mirror; none if it does not have the table."""
        return tuple(self.columns) if self.owner == database else self.shared.get(database, ())


@dataclass(frozen=True)
class SharedModel:
    """A table with rows of other services, and its features.

    `entity` names a row, such as `customer`; `follows` are the monolith's tables that it reads.
    With `has_events` an inbox records the changes of its rows. With `has_read_through` a function
    asks the owner for a row that is not here yet.
    """

    name: str
    entity: str
    follows: tuple[str, ...]
    has_events: bool
    has_read_through: bool

    @property
    def inbox(self) -> str:
        """The table in the service's schema with its events."""
        return f"{self.entity}_events"


class UnknownService(SplitError):
    """A name is not a service's."""

    exit_code = 2


@dataclass(frozen=True)
class Project:
    """A project in a folder; its files are read when they are first needed.

    Args:
        root: the folder with `dbt_project.yml`.
    """

    root: Path

    @cached_property
    def name(self) -> str:
        """The monolith's name: its dbt target, and in capitals the prefix of its variables."""
        return str(self._settings["name"])

    @cached_property
    def schema(self) -> str:
        """The schema of the monolith's tables, and of their mirror in each service's database."""
        return str(self._settings.get("vars", {}).get("monolith_schema", self.name))

    @property
    def retired_schema(self) -> str:
        """The monolith's schema to which a completion moves tables."""
        return f"{self.schema}_retired"

    @cached_property
    def services(self) -> Mapping[str, Service]:
        """The services by database, in phase order."""
        rows = sorted(self.rows(SERVICES_FILE), key=lambda row: int(row["phase"]))
        return {
            row["database"]: Service(
                row["database"], int(row["phase"]), row["role"], row["holds"], self
            )
            for row in rows
        }

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """The monolith's tables by name, from `models/_sources.yml`."""
        tables = {}
        for table in self._source["tables"]:
            name, meta = table["name"], (table.get("config") or {}).get("meta") or {}
            owner, shared = meta.get("owner") or "", meta.get("shared") or {}
            strangers = {owner, *shared} - {"", *self.services}
            if strangers or (shared and not owner):
                raise self._unowned(name, ", ".join(sorted(strangers)))
            columns = table.get("columns") or ()
            if untyped := [one["name"] for one in columns if not one.get("data_type")]:
                raise NotReady(
                    f"These columns of the table {name} have no data_type: {', '.join(untyped)}",
                    where=str(self.root / SOURCES_FILE),
                    hint="Give each the type that it has in the monolith.",
                )
            tables[name] = Table(
                name,
                owner,
                {column["name"]: column["data_type"] for column in columns},
                {database: tuple(names) for database, names in shared.items()},
                tuple(meta.get("unique", ())),
            )
        return tables

    def _unowned(self, table: str, strangers: str) -> NotReady:
        """Give the error for a table that belongs to no service."""
        found = f"names {strangers}, which is no service" if strangers else "is shared by nobody"
        return NotReady(
            f"The table {table} {found}.",
            where=str(self.root / SOURCES_FILE),
            hint=f"Give it an owner from {SERVICES_FILE}: {', '.join(self.services)}",
        )

    @cached_property
    def own_functions(self) -> tuple[str, ...]:
        """The functions that this project makes in each service's own schema."""
        entities = [model.entity for model in self.shared_models if model.entity]
        made = ("get_shared_{}", "{}_events_since")
        return ("wait_for", *(name.format(one) for one in entities for name in made))

    @cached_property
    def shared_models(self) -> tuple[SharedModel, ...]:
        """The models of `models/shared/`, by name."""
        found = []
        for _, name, meta in self.models(SHARED_FOLDER):
            found.append(
                SharedModel(
                    name,
                    meta.get("entity", ""),
                    tuple(meta.get("follows", {})),
                    "events" in meta,
                    bool(meta.get("read_through")),
                )
            )
        return tuple(found)

    def models(self, folder: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
        """Give each model of a folder: its file, its name, and its `config.meta`."""
        for path in sorted((self.root / folder).glob("*.yml")):
            for model in self._yaml(path).get("models") or ():
                yield path, model["name"], (model.get("config") or {}).get("meta") or {}

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of dbt's targets: the monolith and all services' databases."""
        return (self.name, *self.services)

    def variable(self, what: str, target: str = "") -> str:
        """Name an environment variable: of the project, or of one of its targets.

        Args:
            what: such as `URL` or `BACKUPS`.
            target: a target, by default the monolith.
        """
        return f"{(target or self.name).upper()}_{what}"

    def short(self, database: str) -> str:
        """Give a target's short name, for people."""
        return self.services[database].role if database in self.services else database

    def select(self, names: tuple[str, ...]) -> list[Service]:
        """Find services by their names, in phase order.

        Args:
            names: databases or short names; none means all services.

        Returns:
            The services, each once, in phase order.

        Raises:
            UnknownService: a name is not a service's; the message lists all services.
        """
        services = self.services.values()
        by_any_name = {**self.services, **{one.role: one for one in services}}
        for name in names:
            if name not in by_any_name:
                near = get_close_matches(name.lower(), by_any_name, 1)
                raise UnknownService(
                    f"There is no service called {name!r}."
                    + (f" Did you mean {near[0]}?" if near else ""),
                    where="the command line",
                    hint=f"Choose from: {', '.join(one.role for one in services)}.",
                )
        wanted = {by_any_name[name].database for name in names} or set(self.services)
        return [one for one in services if one.database in wanted]

    def rows(self, path: Path) -> Iterator[dict[str, str]]:
        """Read the rows of a seed."""
        with (self.root / path).open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return self._yaml(Path(PROJECT_FILE))

    @cached_property
    def _source(self) -> dict[str, Any]:
        sources = self._yaml(SOURCES_FILE)["sources"]
        for source in sources:  # a project may have others beside it
            if source["name"] == self.name:
                return source  # type: ignore[no-any-return]
        raise NotReady(
            f"There is no source {self.name}, the monolith's; there are: "
            + ", ".join(str(source["name"]) for source in sources),
            where=str(self.root / SOURCES_FILE),
            hint=f"Name the monolith's source as {PROJECT_FILE} names the project: {self.name}",
        )

    def _yaml(self, path: Path) -> dict[str, Any]:
        return yaml.load((self.root / path).read_text(encoding="utf-8"), Loader=LOADER)  # type: ignore[no-any-return]


def find(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Project:
    """Find the project of a command.

    Args:
        folder: the project's folder, if given.
        environ: has `DBT_PROJECT_DIR` otherwise.

    Returns:
        The project; by default the working directory's.

    Raises:
        NotReady: there is no dbt project in that folder, or it lists no services.
    """
    root = (folder or Path(environ.get("DBT_PROJECT_DIR") or ".")).resolve()
    for file in (Path(PROJECT_FILE), SERVICES_FILE, SOURCES_FILE):
        if not (root / file).is_file():
            raise NotReady(
                f"There is no project here: {file} is missing.",
                where=str(root),
                hint="Name the project's folder: --project-dir DIR",
            )
    return Project(root)
