"""Which columns a query's columns come from, read off its SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope
from sqlglot.schema import MappingSchema

from pgsplit.base.errors import BuildFailed

DIALECT = "postgres"
# What decides which rows a SELECT has, beside its joins.
ROWS = ("where", "group", "having", "distinct", "order", "qualify")
# A column as (schema, table, column).
Name = tuple[str, str, str]


@dataclass(frozen=True)
class Origin:
    """Where a column comes from.

    It takes its values from `values`; `chosen_by` only decide which of them. `expression` is what
    is done to them, and empty if they are handed on unchanged.
    """

    values: frozenset[Name] = frozenset()
    chosen_by: frozenset[Name] = frozenset()
    expression: str = ""

    def __or__(self, other: Origin) -> Origin:
        said = [one for one in (self.expression, other.expression) if one]
        return Origin(
            self.values | other.values,
            self.chosen_by | other.chosen_by,
            "; ".join(dict.fromkeys(said)),
        )

    @property
    def as_condition(self) -> Origin:
        """The same, where it only decides on other values."""
        return Origin(chosen_by=self.values | self.chosen_by)


@dataclass(frozen=True)
class Lineage:
    """Where a query's columns come from.

    `rows_by` are the columns that decide which rows there are: by a condition, a join, a group.
    `tables` are all that it reads, as (schema, table).
    """

    columns: Mapping[str, Origin]
    rows_by: frozenset[Name]
    tables: frozenset[tuple[str, str]]


def lineage(query: str, tables: Mapping[tuple[str, str], Iterable[str]], where: str) -> Lineage:
    """Read off a query where its columns come from.

    Args:
        query: a SELECT of PostgreSQL.
        tables: the columns of the tables that it may read, by schema and table.
        where: what the query belongs to, for messages.

    Returns:
        Its lineage.

    Raises:
        BuildFailed: the query can't be understood.
    """
    schema: dict[str, object] = {}
    for space in {space for space, _ in tables}:
        named = {name: columns for (one, name), columns in tables.items() if one == space}
        schema[space] = {name: dict.fromkeys(columns, "text") for name, columns in named.items()}
    try:
        parsed = sqlglot.parse_one(query, dialect=DIALECT)
        for read in parsed.find_all(exp.Table):
            read.set("catalog", None)  # the same tables are in other databases, too
        qualified = qualify(
            parsed,
            dialect=DIALECT,
            schema=MappingSchema(schema, dialect=DIALECT, normalize=False),
            validate_qualify_columns=False,
            quote_identifiers=False,
        )
        return _Reader(qualified, tables).lineage()
    except sqlglot.errors.SqlglotError as error:
        raise BuildFailed(
            f"The SQL of {where} can't be read: {str(error).splitlines()[0]}",
            where=where,
            hint="Write it in SQL that sqlglot knows, or report this; dbt builds it all the same.",
        ) from error


class _Reader:
    """Follows the columns of one qualified query through its parts."""

    def __init__(self, query: exp.Expr, tables: Mapping[tuple[str, str], Iterable[str]]) -> None:
        self.tables = tables
        root = build_scope(query)
        if root is None:
            raise sqlglot.errors.OptimizeError("it is no SELECT")
        self.root: Scope = root
        self.scopes = {id(one.expression): one for one in root.traverse()}
        self.known: dict[tuple[int, str], Origin] = {}

    def lineage(self) -> Lineage:
        columns = {name: self.column(self.root, name) for name in _names(self.root.expression)}
        rows_by = Origin()
        for scope in self.scopes.values():
            for part in _of_rows(scope.expression):
                rows_by |= self.expression(part, scope).as_condition
        tables = {
            (source.db, source.name)
            for scope in self.scopes.values()
            for source in scope.sources.values()
            if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier)
        }
        return Lineage(columns, rows_by.chosen_by, frozenset(tables))

    def column(self, scope: Scope, name: str) -> Origin:
        """Find where a column of a part comes from."""
        key = (id(scope), name)
        if key not in self.known:
            self.known[key] = Origin()  # a recursive query comes by here again
            self.known[key] = self._column(scope, name)
        return self.known[key]

    def _column(self, scope: Scope, name: str) -> Origin:
        query, names = scope.expression, _names(scope.expression)
        if isinstance(query, exp.Lateral) and isinstance(query.this, exp.Subquery):
            names = query.alias_column_names
            query = query.this.this
        if isinstance(query, exp.Values):
            return self._of_rows(query, scope.parent or scope, (names, name))
        if query is not scope.expression:  # a lateral subquery
            inner = self.scopes[id(query)]
            own = _names(query)
            return self.column(inner, own[names.index(name)] if name in names else name)
        if isinstance(query, exp.SetOperation):
            found = Origin()
            for branch in scope.set_operation_scopes:
                found |= self.column(branch, _names(branch.expression)[names.index(name)])
            return found
        if not isinstance(query, exp.Select):  # a function's rows
            return self.expression(query.this, scope.parent or scope)
        for projection in query.expressions:
            if projection.alias_or_name == name:
                inner = projection.unalias()
                origin = self.expression(inner, scope)
                if isinstance(inner, exp.Column):
                    return origin
                return Origin(origin.values, origin.chosen_by, _shown(inner, origin.expression))
        raise _unknown(name)

    def _of_rows(self, query: exp.Values, scope: Scope, place: tuple[list[str], str]) -> Origin:
        """Find where a column of VALUES comes from."""
        names, name = place
        found = Origin()
        for row in query.expressions:
            element = row.expressions[names.index(name)] if name in names else row
            found |= self.expression(element, scope)
        return found

    def expression(self, node: exp.Expr, scope: Scope) -> Origin:
        """Find where an expression's value comes from."""
        if isinstance(node, exp.Column):
            return self._leaf(node, scope)
        if isinstance(node, exp.Query):
            return self._subquery(node, scope)
        found = Origin()
        for key, part in _parts(node):
            origin = self.expression(part, scope)
            if _decides(node, key):
                found |= origin.as_condition
            else:  # how a constant was made is of no interest
                found |= origin if origin.values else replace(origin, expression="")
        return found

    def _subquery(self, node: exp.Query, scope: Scope) -> Origin:
        """Find where a subquery inside of an expression comes from."""
        query = node.unnest() if isinstance(node, exp.Subquery) else node
        inner = self.scopes[id(query)]
        found = Origin()
        for name in _names(query):
            found |= self.column(inner, name)
        return found

    def _leaf(self, node: exp.Column, scope: Scope) -> Origin:
        home: Scope | None = scope
        while home is not None and node.table not in home.sources:
            home = home.parent
        if home is None:
            raise _unknown(node.sql(dialect=DIALECT))
        source = home.sources[node.table]
        if isinstance(source, Scope):
            return self.column(source, node.name)
        if not isinstance(source.this, exp.Identifier):  # a function in FROM
            return self.expression(source.this, home)
        found = (source.db, source.name, node.name)
        if node.name not in self.tables.get(found[:2], ()):
            raise _unknown(node.sql(dialect=DIALECT))
        return Origin(frozenset({found}))


def _parts(node: exp.Expr) -> Iterator[tuple[str, exp.Expr]]:
    for key, value in node.args.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, exp.Expr):
                yield key, one


def _of_rows(query: exp.Expr) -> Iterator[exp.Expr]:
    """Give the parts of a SELECT that decide which rows there are."""
    if not isinstance(query, exp.Select):
        return
    yield from (part for key, part in _parts(query) if key in ROWS)
    for join in query.args.get("joins") or ():
        yield from (part for key, part in _parts(join) if key == "on")
        if isinstance(join.this, exp.Lateral) and not isinstance(join.this.this, exp.Subquery):
            yield join.this.this  # the rows of a function


def _decides(node: exp.Expr, key: str) -> bool:
    """Tell whether a part of an expression only decides which other part is its value."""
    if isinstance(node, (exp.Case, exp.If)):
        return key == "this"
    if isinstance(node, exp.Filter):
        return key == "expression"
    if isinstance(node, exp.Window):
        return key in ("partition_by", "order")
    return isinstance(node, exp.Nullif) and key == "expression"


def _unknown(name: str) -> sqlglot.errors.OptimizeError:
    return sqlglot.errors.OptimizeError(f"it is not known where {name} comes from")


def _names(query: exp.Expr) -> list[str]:
    """Name the columns of a query in their order."""
    if isinstance(query, exp.Values):
        return list(query.alias_column_names)
    return list(query.named_selects) if isinstance(query, exp.Query) else []


def _shown(node: exp.Expr, inner: str) -> str:
    """Write an expression for people: without the names of the parts that it reads from."""
    shown = node.copy()
    for column in shown.find_all(exp.Column):
        column.set("table", None)
    return "; ".join(
        filter(
            None, (inner, shown.sql(dialect=DIALECT, comments=False, normalize_functions="lower"))
        )
    )
