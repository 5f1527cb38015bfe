"""Compares the lineage of all columns with who owns them: each proves the other.

What a service column takes its values from has to be a line of the seed, and each line has to be
seen in the SQL. What a reverse model takes has to be what holds the monolith's column by the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgsplit.observe.docs.lineage import Name, Origin
from pgsplit.observe.docs.models import Model
from pgsplit.project.ownership import Pair, pairs
from pgsplit.project.project import OWNERSHIP_FILE, Project, Service

FIRST_LINE = 2  # the seed's first one has the names of the columns


@dataclass(frozen=True)
class Mismatch:
    """A column of which the seed and the SQL say different things."""

    service: str
    table: str
    column: str
    seed: str
    sql: str
    hint: str

    def __str__(self) -> str:
        """Say it in full: the column, both statements, and what to do."""
        return (
            f"{self.service}: {self.table}.{self.column}\n    the seed: {self.seed}\n"
            f"    the SQL:  {self.sql}\n    hint:     {self.hint}"
        )


@dataclass(frozen=True)
class Line:
    """A line of the seed, with its number."""

    number: int
    pair: Pair

    def __str__(self) -> str:
        """Say what the line says."""
        one = self.pair
        return (
            f"line {self.number} of {OWNERSHIP_FILE}: {one.monolith_table}.{one.monolith_column}"
            f" goes to {one.service_table}.{one.service_column}"
        )


def lines(service: Service) -> list[Line]:
    """Give a service's lines of the seed."""
    numbered = enumerate(pairs(service.project), FIRST_LINE)
    return [Line(number, one) for number, one in numbered if one.service == service.database]


def mismatches(project: Project, models: Mapping[str, Sequence[Model]]) -> list[Mismatch]:
    """Compare the seed with the SQL of all services, in both directions.

    Args:
        project: the project.
        models: the models by service.

    Returns:
        What differs, by service.
    """
    found: list[Mismatch] = []
    for service in project.services.values():
        found += _of_service(service, models[service.database])
    return found


def _of_service(service: Service, models: Sequence[Model]) -> Iterator[Mismatch]:
    said = lines(service)
    of_table: dict[str, list[Line]] = {}
    for line in said:
        of_table.setdefault(line.pair.service_table, []).append(line)
    for model in (one for one in models if one.is_compared):
        if model.problem:
            yield Mismatch(
                service.database, model.table, "*", "nothing was compared", model.problem.what,
                model.problem.hint,
            )  # fmt: skip
        elif model.is_reverse:
            yield from _of_reverse(service, model, said)
        else:
            yield from _of_table(service, model, of_table.pop(model.table, []))
    for table in of_table.keys() - {one.table for one in models if not one.is_reverse}:
        for line in of_table[table]:
            yield Mismatch(
                service.database, table, line.pair.service_column, str(line),
                f"{service.database} has no model {table}",
                f"Add the model, or correct {_place(line)}",
            )  # fmt: skip
    returned = {one.table for one in models if one.is_reverse}
    for table in service.owned_tables:
        if table not in returned:
            yield Mismatch(
                service.database, table, "*",
                f"{service.database} owns the monolith's {table}, by models/_sources.yml",
                "no reverse model makes it again",
                f"Add a model with the alias {table}; docs/models.md shows how",
            )  # fmt: skip


def evidence(model: Model, column: str, source: Name) -> str:
    """Tell how a model's SQL bears out that a column is made from a monolith's column.

    Args:
        model: a service's table.
        column: a column of it.
        source: the monolith's column, with schema and table.

    Returns:
        `value`, `choice` if it decides which value or which rows there are, `constant` if the
        column has the same value beside all rows of that table, or nothing: it isn't borne out.
    """
    assert model.lineage is not None
    origin = model.lineage.columns.get(column, Origin())
    if source in origin.values:
        return "value"
    if source in origin.chosen_by | model.lineage.rows_by:
        return "choice"
    table = source[:2]
    is_constant = table in model.lineage.tables and table not in {v[:2] for v in origin.values}
    return "constant" if is_constant else ""


def _of_table(service: Service, model: Model, said: Sequence[Line]) -> Iterator[Mismatch]:
    assert model.lineage is not None
    of_column: dict[str, list[Line]] = {}
    for line in said:
        of_column.setdefault(line.pair.service_column, []).append(line)
    for column in of_column.keys() | model.lineage.columns.keys():
        known = of_column.get(column, [])
        origin = model.lineage.columns.get(column)
        in_sql = _in_sql(model, column, origin)
        named = {_source(service, line): line for line in known}
        in_seed = "\n              ".join(map(str, known)) or "no line names it"
        for source in sorted(origin.values - named.keys() if origin else ()):
            yield Mismatch(
                service.database, model.table, column, in_seed, in_sql,
                f"Add to {OWNERSHIP_FILE}: {source[1]},{source[2]},{service.database},"
                f"{model.table},{column},,HOW IT CHANGES",
            )  # fmt: skip
        if origin is not None and not known and not origin.values:
            yield Mismatch(
                service.database, model.table, column, in_seed, in_sql,
                f"Say in {OWNERSHIP_FILE} which column of the monolith it stands for, or drop it",
            )  # fmt: skip
        for source, line in named.items():
            if origin is None or not evidence(model, column, source):
                yield Mismatch(
                    service.database, model.table, column, str(line), in_sql,
                    f"Correct {_place(line)}, or {model.path}",
                )  # fmt: skip


def _of_reverse(service: Service, model: Model, said: Sequence[Line]) -> Iterator[Mismatch]:
    assert model.lineage is not None
    for column, origin in model.lineage.columns.items():
        known = [
            line
            for line in said
            if (line.pair.monolith_table, line.pair.monolith_column) == (model.table, column)
        ]
        held = {
            (service.database, one.pair.service_table, one.pair.service_column) for one in known
        }
        taken = {(service.database, *name[1:]) for name in origin.values}
        if taken and taken <= held:
            continue
        yield Mismatch(
            service.database, f"the monolith's {model.table}", column,
            "\n              ".join(map(str, known)) or "no line names it",
            _in_sql(model, column, origin),
            f"Correct {_place(known[0]) if known else OWNERSHIP_FILE}, or {model.path}",
        )  # fmt: skip


def _source(service: Service, line: Line) -> Name:
    return (service.mirror, line.pair.monolith_table, line.pair.monolith_column)


def _place(line: Line) -> str:
    return f"{OWNERSHIP_FILE}:{line.number}"


def _in_sql(model: Model, column: str, origin: Origin | None) -> str:
    """Say what a model's SQL does for a column."""
    path = Path(model.path).as_posix()
    if origin is None:
        return f"{path} has no column {column}"
    taken = ", ".join(f"{table}.{name}" for _, table, name in sorted(origin.values))
    how = f": {origin.expression}" if origin.expression else ""
    return f"{path} makes {column} from {taken or 'no column'}{how}"
