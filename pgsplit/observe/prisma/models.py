"""Gives each of a service's tables a model: old names where the values are the old ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pgsplit.observe.prisma import present as schema
from pgsplit.observe.prisma.present import Present
from pgsplit.observe.prisma.tables import Column, Enum, Table, identifier, prisma_type
from pgsplit.project.ownership import KINDS, Pair, pairs
from pgsplit.project.project import Service

# What a model can't be called: Prisma's own types.
TAKEN = frozenset(
    ("String", "Int", "BigInt", "Float", "Decimal", "Boolean", "DateTime", "Json", "Bytes")
)
# These defaults are the database's own, so what it says now counts.
MADE_BY_DATABASE = ("autoincrement(", "dbgenerated(", "sequence(")


@dataclass(frozen=True)
class Field:
    """A column as a field: its name, Prisma's type for it, and what fills it in."""

    name: str
    column: Column
    type: str
    exact: str
    default: str
    is_updated_at: bool
    old_column: str = ""

    @property
    def is_optional(self) -> bool:
        """Whether it may be null; Prisma has no list that may."""
        return not (self.column.is_required or self.column.is_list)


@dataclass
class Model:
    """A table as a model. `replaces` is the monolith's table whose name in code it takes over."""

    name: str
    table: Table
    replaces: str = ""
    old: schema.Model | None = None
    fields: dict[str, Field] = field(default_factory=dict)

    def named(self, columns: Iterable[str]) -> list[str]:
        """Give the names of some columns' fields."""
        return [self.fields[one].name for one in columns]

    @property
    def by_old_column(self) -> Mapping[str, Field]:
        """Its fields under the names that the monolith's columns have."""
        return {one.old_column: one for one in self.fields.values() if one.old_column}


def is_kept(pair: Pair) -> bool:
    """Tell whether a column has the monolith's values as they are."""
    kind = KINDS.get(pair.total)
    return kind is not None and kind.monolith == kind.service == "{column}"


def service_pairs(service: Service) -> list[Pair]:
    """Give the lines of the seed about a service."""
    return [one for one in pairs(service.project) if one.service == service.database]


def build(service: Service, tables: Mapping[str, Table], present: Present) -> list[Model]:
    """Give a model for each table, with its fields.

    Args:
        service: the service.
        tables: its tables.
        present: the application's present schema, which may be empty.

    Returns:
        The models: first those that code knows already.
    """
    successors = _successors(service, tables)
    used = {*present.models, *present.enums, *TAKEN}
    models = []
    for successor, replaced in successors.items():
        old = present.by_table.get(replaced)
        name = old.name if old else _unused(model_name(replaced), used)
        used.add(name)
        models.append(Model(name, tables[successor], replaced, old))
    for table in tables.values():
        if table.name not in successors:
            name = _unused(model_name(table.name), used)
            used.add(name)
            models.append(Model(name, table))
    for model in models:
        _add_fields(model, service, present)
    return models


def old_name(old: schema.Model | None, column: str) -> str:
    """Give the name of a monolith's column in code: its field's, or the column's own."""
    if old:
        for one in old.fields.values():
            if one.column == column:
                return one.name
    return identifier(column)


def model_name(table: str) -> str:
    """Name a table's model: `job_postings` is `JobPosting`."""
    words = [one for one in identifier(table).split("_") if one]
    words[-1:] = [_singular(words[-1])]
    return "".join(one[0].upper() + one[1:] for one in words)


def field_name(column: str) -> str:
    """Name a column's field: `sender_id` is `senderId`."""
    first, *rest = [one for one in identifier(column).split("_") if one]
    return first + "".join(one[0].upper() + one[1:] for one in rest)


def _singular(word: str) -> str:
    for ending, instead in ((r"ies$", "y"), (r"((?:ss|sh|ch|x|zz|[^ao]us))es$", r"\1")):
        if re.search(ending, word):
            return re.sub(ending, instead, word)
    return re.sub(r"(?<![su])s$", "", word)


def _unused(name: str, used: Iterable[str], ending: str = "Table") -> str:
    while name in used:
        name += ending
    return name


def _successors(service: Service, tables: Mapping[str, Table]) -> dict[str, str]:
    """Give the table that takes the place of each of the monolith's, with that one's name.

    It has the row's id. If several have it, the one of the same name does, or else the one with
    the most of the columns.
    """
    kept: dict[str, dict[str, list[str]]] = {}
    for one in filter(is_kept, service_pairs(service)):
        if one.service_table in tables:
            found = kept.setdefault(one.monolith_table, {})
            found.setdefault(one.service_table, []).append(one.monolith_column)
    successors: dict[str, str] = {}
    for monolith_table, found in kept.items():
        candidates = [name for name, columns in found.items() if "id" in columns]
        if candidates:
            best = max(candidates, key=lambda name: (name == monolith_table, len(found[name])))
            successors.setdefault(best, monolith_table)
    return successors


def _add_fields(model: Model, service: Service, present: Present) -> None:
    old_columns = _old_columns(model, service)
    monolith = service.project.tables[model.replaces] if model.replaces else None
    reserved: set[str] = set(model.old.fields) if model.old else set()
    if monolith:
        reserved |= {old_name(model.old, one) for one in monolith.columns}
    used: set[str] = set()
    for column in model.table.columns:
        before = old_columns.get(column.name, "")
        if before:
            name = old_name(model.old, before)
        else:
            name = _unused(field_name(column.name), used | reserved, "New")
        used.add(name)
        type_, exact = prisma_type(
            column.type, monolith.columns[before] if monolith and before else ""
        )
        if column.enum:
            type_ = enum_of(column.enum, present).name
        given = model.old.fields.get(name) if model.old and before else None
        is_same = given is not None and given.type == type_ and given.is_list == column.is_list
        model.fields[column.name] = Field(
            name,
            column,
            type_,
            exact,
            _default(column, type_, given if is_same else None, present),
            bool(is_same and given and given.get("updatedAt")),
            before,
        )


def _old_columns(model: Model, service: Service) -> dict[str, str]:
    """Give the monolith's column for each column with its values; each name goes to one field."""
    found: dict[str, str] = {}
    for one in filter(is_kept, service_pairs(service)):
        here = (one.service_table, one.monolith_table) == (model.table.name, model.replaces)
        if here and one.monolith_column not in found.values():
            found.setdefault(one.service_column, one.monolith_column)
    return found


def enum_of(enum: Enum, present: Present) -> schema.Enum:
    """Give an enum with the names that the application has for it and for its values."""
    for one in present.enums.values():
        if one.type == enum.name:
            names = {value: one.values.get(value, identifier(value)) for value in enum.values}
            return schema.Enum(one.name, enum.name, names)
    names = {value: identifier(value) for value in enum.values}
    used = {*present.models, *present.enums}
    return schema.Enum(_unused(identifier(enum.name), used, "Enum"), enum.name, names)


def _default(column: Column, type_: str, given: schema.Field | None, present: Present) -> str:
    """Give what fills a column in: the application's client as before, else the database."""
    before = given.get("default") if given else None
    if before and not before.text.startswith(MADE_BY_DATABASE):
        return before.text
    default = column.prisma_default(type_)
    if column.enum and not column.is_list:
        return enum_of(column.enum, present).values.get(default, default)
    return default
