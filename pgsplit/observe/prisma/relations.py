"""Gives models their relations: those that code has, as far as both ends are here, and the keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pgsplit.observe.prisma import present as schema
from pgsplit.observe.prisma.models import Model, field_name
from pgsplit.observe.prisma.present import Present
from pgsplit.observe.prisma.tables import ForeignKey

ACTIONS = {"a": "NoAction", "r": "Restrict", "c": "Cascade", "n": "SetNull", "d": "SetDefault"}


@dataclass(frozen=True)
class Relation:
    """A relation: one model's columns name a row of another; `name` and `back` are its two fields.

    `is_single` says that at most one row names the same other row; `key` is the foreign key behind
    it, if there is one.
    """

    model: Model
    columns: tuple[str, ...]
    to: Model
    referenced: tuple[str, ...]
    name: str
    back: str
    label: str
    is_optional: bool
    is_single: bool
    key: ForeignKey | None


def build(models: list[Model], present: Present) -> tuple[list[Relation], list[tuple[str, str]]]:
    """Give the relations between a service's models.

    Args:
        models: the models, with their fields.
        present: the application's present schema, which may be empty.

    Returns:
        The relations; and each relation field of the application that is lost, with the reason.
    """
    by_name = {one.name: one for one in models if one.old}
    relations: list[Relation] = []
    lost: list[tuple[str, str]] = []
    for model in by_name.values():
        assert model.old
        for field in present.relations(model.old):
            found = _kept(model, field, by_name, present)
            if isinstance(found, Relation):
                relations.append(found)
            elif found:
                lost.append((f"{model.name}.{field.name}", found))
    for model in models:
        for key in model.table.foreign_keys:
            relations += _of_key(model, key, models, relations)
    return [_labelled(one, relations) for one in relations], lost


def _kept(
    model: Model, field: schema.Field, models: dict[str, Model], present: Present
) -> Relation | str:
    """Give a relation field's relation from the side that has the columns, or why it is lost.

    The other side of a relation that stays gives nothing: it comes with the first.
    """
    if field.type not in models:
        return f"{field.type} is not in this database"
    to, other = models[field.type], present.opposite(present.models[model.name], field)
    if other is None:
        return f"{field.type} has no field for its other side"
    attribute = field.get("relation")
    if attribute is None or not attribute.argument("fields"):
        if not _has_columns(other):
            return "rows of both sides meet in a table of Prisma's own, which is not here"
        found = _kept(to, other, models, present)
        return found if isinstance(found, str) else ""
    here, there = model.by_old_column, to.by_old_column
    assert model.old and to.old
    columns = [model.old.fields[one].column for one in attribute.names("fields")]
    referenced = [to.old.fields[one].column for one in attribute.names("references")]
    for side, known, wanted in ((model, here, columns), (to, there, referenced)):
        if missing := [one for one in wanted if one not in known]:
            return f"{side.name} has no {', '.join(missing)} here"
    mine = tuple(here[one].column.name for one in columns)
    theirs = tuple(there[one].column.name for one in referenced)
    if not to.table.is_unique(theirs):
        return f"{to.table.name} ({', '.join(theirs)}) is not unique here"
    if not other.is_list and not model.table.is_unique(mine):
        return f"{model.table.name} ({', '.join(mine)}) is not unique here"
    is_optional = any(model.fields[one].is_optional for one in mine) or field.is_optional
    label = attribute.string("name")
    key = _key(model, mine, to, theirs)
    ends = (model, mine, to, theirs, field.name, other.name, label)
    return Relation(*ends, is_optional, not other.is_list, key)


def _has_columns(field: schema.Field) -> bool:
    attribute = field.get("relation")
    return bool(attribute and attribute.argument("fields"))


def _key(
    model: Model, columns: tuple[str, ...], to: Model, referenced: tuple[str, ...]
) -> ForeignKey | None:
    wanted = (to.table.name, dict(zip(columns, referenced, strict=True)))
    for one in model.table.foreign_keys:
        if (one.table, dict(zip(one.columns, one.referenced, strict=True))) == wanted:
            return one
    return None


def _of_key(
    model: Model, key: ForeignKey, models: list[Model], others: list[Relation]
) -> Iterator[Relation]:
    """Give the relation that a foreign key makes, unless the application has one for it."""
    to = next((one for one in models if one.table.name == key.table), None)
    known = {one.key.name for one in others if one.key and one.model is model}
    if to is None or key.name in known or not to.table.is_unique(key.referenced):
        return
    is_single = model.table.is_unique(key.columns)
    stem = key.columns[0].removesuffix("_id") if len(key.columns) == 1 else key.table
    name = _unused(model, field_name(stem), others)
    back = model.name[0].lower() + model.name[1:] if is_single else field_name(model.table.name)
    is_optional = any(model.fields[one].is_optional for one in key.columns)
    back = _unused(to, back, others, taken=name if to is model else "")
    ends = (model, key.columns, to, key.referenced, name, back, "")
    yield Relation(*ends, is_optional, is_single, key)


def _unused(model: Model, name: str, others: list[Relation], taken: str = "") -> str:
    used = {one.name for one in model.fields.values()} | {taken}
    used |= set(model.old.fields) if model.old else set()
    used |= {one.name for one in others if one.model is model}
    used |= {one.back for one in others if one.to is model}
    while name in used:
        name += "Row"
    return name


def _labelled(relation: Relation, others: list[Relation]) -> Relation:
    """Give a relation a name of its own where another one joins the same two models."""
    ends = {relation.model.name, relation.to.name}
    alike = [one for one in others if {one.model.name, one.to.name} == ends]
    if relation.label or (len(alike) == 1 and len(ends) == 2):
        return relation
    return replace(relation, label=f"{relation.model.name}_{relation.name}")
