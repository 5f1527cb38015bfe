"""Lists what an application's code finds changed: what has no old name, or another meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgsplit.base.text import few
from pgsplit.observe.prisma.models import Field, Model, is_kept, old_name, service_pairs
from pgsplit.observe.prisma.present import Present
from pgsplit.observe.prisma.relations import Relation
from pgsplit.observe.prisma.tables import prisma_type
from pgsplit.project.ownership import Pair
from pgsplit.project.project import Service

MANY = 1000
NEW_SHAPE = {
    "cents": "units, not cents",
    "date": "the date alone",
    "time": "the time of day alone",
    "raw": "a document; the text as it was is its field raw",
    "set": "a time where the monolith said true",
    "named": "a row for each value",
}


@dataclass(frozen=True)
class Change:
    """Something that code has to know: where, of which kind, and what it is now.

    Kinds: `value`, `table`, `gone`, `type`, `null`, `new`, `relation`, `read only`, `elsewhere`,
    `default`, `check`.
    """

    where: str
    kind: str
    what: str


def find(
    service: Service,
    models: list[Model],
    present: Present,
    mirror_not_null: Mapping[str, frozenset[str]],
    relations: list[Relation],
    lost: list[tuple[str, str]],
) -> list[Change]:
    """List all changes, model by model.

    Args:
        service: the service.
        models: its models, with their fields.
        present: the application's present schema, which may be empty.
        mirror_not_null: the monolith's columns that can't be null, by table.
        relations: the relations between them.
        lost: relation fields of the application that are lost, with the reasons.

    Returns:
        The changes.
    """
    found: list[Change] = []
    for model in models:
        if model.table.is_read_only:
            found.append(_read_only(model, service))
        elif model.table.owned_rows != "true":
            rows = f"the service writes the rows where {model.table.owned_rows}; others are copies"
            found.append(Change(model.name, "read only", rows))
        if model.replaces:
            if not model.table.is_read_only:
                found += _old_fields(model, models, service, present)
            found += _kept_fields(model, service, mirror_not_null)
        if not model.table.is_read_only:
            found += _writes(model, service)
    found += [*_copies(relations), *(Change(where, "relation", why) for where, why in lost)]
    found += _elsewhere(service, models, present)
    return found


def _read_only(model: Model, service: Service) -> Change:
    what = "read only"
    if model.replaces:
        table = service.project.tables[model.replaces]
        owner = service.project.services[table.owner]
        kept = model.by_old_column
        missing = [old_name(model.old, one) for one in table.columns if one not in kept]
        what = f"a copy that {owner.role} writes; read only"
        if missing:
            what += f". Not here: {', '.join(missing)}"
    if model.table.tombstone:
        name = model.fields[model.table.tombstone].name
        what += f". A deleted row stays, with {name} set: ask for {{ {name}: null }}"
    return Change(model.name, "read only", what)


def _old_fields(
    model: Model, models: list[Model], service: Service, present: Present
) -> Iterator[Change]:
    """Name the old fields that are not there any more under their names, and what has them now."""
    by_table = {one.table.name: one for one in models}
    kept = model.by_old_column
    lines = [one for one in service_pairs(service) if one.monolith_table == model.replaces]
    for column in service.project.tables[model.replaces].columns:
        where = f"{model.name}.{old_name(model.old, column)}"
        mine = [one for one in lines if one.monolith_column == column]
        mine = [one for one in mine if one.service_table in by_table]
        places = [one for one in mine if one.service_column in by_table[one.service_table].fields]
        if column in kept:
            if column == "id" and (moved := _moved_rows(model, places)):
                rows = few([by_table[one].name for one in moved], MANY)
                yield Change(model.name, "table", f"some of its rows are in {rows} now")
            if also := _also(model, places, by_table):
                yield Change(where, "table", f"stays, and is also {also}")
            continue
        here = [one for one in places if one.service_table == model.table.name]
        if here:
            yield Change(where, "value", "; ".join(_place(one, by_table) for one in here))
        elif places:
            yield Change(where, "table", "; ".join(_place(one, by_table) for one in places))
        else:
            yield Change(where, "gone", "not in this database")
    for field in model.old.fields.values() if model.old else ():
        is_known = field.column in service.project.tables[model.replaces].columns
        if not is_known and field.type not in present.models:
            yield Change(f"{model.name}.{field.name}", "gone", "no column that the split knows")


def _moved_rows(model: Model, places: list[Pair]) -> list[str]:
    """Name the tables that have the rows which a model's own table has not."""
    mine = [one for one in places if one.service_table == model.table.name and is_kept(one)]
    if any(one.total == "same" for one in mine):
        return []
    others = {one.service_table for one in places if is_kept(one)}
    return sorted(others - {model.table.name})


def _also(model: Model, places: list[Pair], by_table: Mapping[str, Model]) -> str:
    """Name the columns of other tables that hold a part of a kept column, and count from now on."""
    if not any(one.service_table == model.table.name and one.total == "same" for one in places):
        return ""
    others: dict[str, list[Pair]] = {}
    for one in places:
        is_written = not by_table[one.service_table].table.is_read_only
        if is_written and not is_kept(one) and one.service_table != model.table.name:
            others.setdefault(one.service_table, []).append(one)
    return "; ".join(
        _place(found[0], by_table)
        if len(found) == 1
        else f"{by_table[table].name} ({few([_name(one, by_table) for one in found], MANY)})"
        for table, found in others.items()
    )


def _name(pair: Pair, by_table: Mapping[str, Model]) -> str:
    return by_table[pair.service_table].fields[pair.service_column].name


def _place(pair: Pair, by_table: Mapping[str, Model]) -> str:
    model = by_table[pair.service_table]
    field = model.fields[pair.service_column]
    how = NEW_SHAPE.get(pair.total) or pair.reason
    said = f"{model.name}.{_name(pair, by_table)} ({_typed(field)})"
    return f"{said}, {how}" if how else said


def _typed(field: Field) -> str:
    return field.type + ("[]" if field.column.is_list else "?" if field.is_optional else "")


def _kept_fields(
    model: Model, service: Service, mirror_not_null: Mapping[str, frozenset[str]]
) -> Iterator[Change]:
    """Name the fields that have their old names, but another type, or another say about null."""
    types = service.project.tables[model.replaces].columns
    for column, field in model.by_old_column.items():
        where, kind = f"{model.name}.{field.name}", types[column]
        before = model.old.fields.get(field.name) if model.old else None
        was = before.type if before else prisma_type(kind)[0]
        if was != field.type and not was.startswith("Unsupported"):
            yield Change(where, "type", f"was {was}, is {_typed(field)}: {field.column.type}")
        elif field.type == "Float" and field.column.type.startswith("numeric"):
            exact = "the column is numeric, and exact; Float reads it as before"
            yield Change(where, "type", exact)
        if before:
            was_required = not before.is_optional
        elif model.replaces in mirror_not_null:
            was_required = column in mirror_not_null[model.replaces]
        else:
            continue
        if field.column.is_list or was_required == field.column.is_required:
            continue
        if was_required:
            yield Change(where, "null", "may be null now")
        else:
            yield Change(where, "null", "can't be null any more")


def _writes(model: Model, service: Service) -> Iterator[Change]:
    """Name what a create or an update has to heed that it had not to before."""
    lines = [one for one in service_pairs(service) if one.service_table == model.table.name]
    for field in model.fields.values():
        where = f"{model.name}.{field.name}"
        if field.column.is_generated:
            yield Change(where, "new", "made by the database; don't write it")
        elif model.replaces and not field.old_column and not field.default:
            made_of = [one for one in lines if one.service_column == field.column.name]
            if field.column.is_required:
                yield Change(where, "new", "a create has to give it")
            elif not any(_replaces(one, model) for one in made_of):
                reasons = dict.fromkeys(one.reason for one in made_of if one.reason)
                said = f" ({'; '.join(reasons)})" if reasons else ""
                yield Change(where, "new", f"new{said}; null unless a create gives it")
        given = model.old.fields.get(field.name) if model.old and field.old_column else None
        default = given.get("default") if given else None
        if default and not field.default:
            lost = f"the monolith's database filled it in ({default.text}); here nobody does"
            yield Change(where, "default", lost)
    if model.replaces and model.table.checks:
        yield Change(model.name, "check", "a write must keep " + "; ".join(model.table.checks))


def _replaces(pair: Pair, model: Model) -> bool:
    """Tell whether a column stands for an old one that has no field of its own any more."""
    is_its_own = pair.monolith_table == model.replaces
    return is_its_own and pair.monolith_column not in model.by_old_column


def _copies(relations: list[Relation]) -> Iterator[Change]:
    """Name relations to copies of others' rows that no foreign key guards."""
    for one in relations:
        if one.key is None and one.to.table.is_read_only:
            what = f"no foreign key guards it: a {one.to.name} may be missing, and can't be written"
            yield Change(f"{one.model.name}.{one.name}", "relation", what)


def _elsewhere(service: Service, models: list[Model], present: Present) -> Iterator[Change]:
    """Name the application's models that are in other databases, by the service that has them."""
    here = {one.replaces for one in models}
    by_owner: dict[str, list[str]] = {}
    unknown = []
    for table, model in present.by_table.items():
        if table in here:
            continue
        if table in service.project.tables:
            by_owner.setdefault(service.project.tables[table].owner, []).append(model.name)
        else:
            unknown.append(model.name)
    for owner, names in by_owner.items():
        role = service.project.services[owner].role
        yield Change(few(names, MANY), "elsewhere", f"in the database of {role}")
    if unknown:
        yield Change(few(unknown, MANY), "elsewhere", "not among the tables that are split")
