"""Writes models as a schema.prisma."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from textwrap import wrap

from pgsplit.observe.prisma.changes import Change
from pgsplit.observe.prisma.models import Field, Model, enum_of
from pgsplit.observe.prisma.present import WRITTEN, Block, Present
from pgsplit.observe.prisma.relations import ACTIONS, Relation
from pgsplit.observe.prisma.tables import Index
from pgsplit.project.project import Service

MARK = re.compile(rf"{re.escape(WRITTEN)} [^\n]*checksum ([0-9a-f]{{16}})\n")
METHODS = {"btree": "", "hash": ", type: Hash", "gin": ", type: Gin"}
WIDTH = 96
ABOUT = """\
`runner.py prisma {role}` writes this file: the tables of {database} under the names that code has
for the monolith's. Don't run `prisma migrate` or `prisma db push` with it: the tables are the
split's, and Prisma would drop what it can't say. `prisma validate` and `prisma generate` are fine.
The URL is {variable}_WRITE_URL or {variable}_READ_URL in connections/{role}.env.
"""
UNKNOWN = """\
Without --from nobody knows what the application's client fills in by itself: @default(cuid()),
@default(uuid()), @updatedAt. Nor what it calls models and relations. Give its present
schema.prisma with --from, and this file says the same.
"""


def write(
    service: Service,
    models: list[Model],
    relations: list[Relation],
    changes: list[Change],
    present: Present,
) -> str:
    """Write a schema.

    Args:
        service: the service.
        models: its models.
        relations: the relations between them.
        changes: what is no longer as code knows it.
        present: the application's present schema, for its generators and datasource.

    Returns:
        The text, which begins with a checksum of the rest.
    """
    parts = [_head(service, changes, present), *_settings(service, models, present)]
    parts += _enums(models, present)
    parts += [_model(one, service, relations) for one in models]
    body = "\n".join(parts)
    return f"{WRITTEN}; checksum {_checksum(body)}\n{body}"


def is_as_written(text: str) -> bool:
    """Tell whether a file is as it was written here, and nobody has edited it since."""
    mark = MARK.match(text)
    return mark is not None and mark[1] == _checksum(text[mark.end() :])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _head(service: Service, changes: list[Change], present: Present) -> str:
    about = ABOUT.format(
        role=service.role, database=service.database, variable=service.role.upper()
    )
    lines = about.splitlines()
    if present.path is None:
        lines += ["", *UNKNOWN.splitlines()]
    if changes:
        lines += ["", "Code has to change where it uses these:"]
    for one in changes:
        said = f"{one.where}: {one.what}"
        lines += wrap(said, WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "".join(f"// {_one_line(line)}".rstrip() + "\n" for line in lines)


def _one_line(text: str) -> str:
    """Keep text within one comment, whatever a name or a reason has in it."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _settings(service: Service, models: list[Model], present: Present) -> Iterator[str]:
    """Give the application's generators and datasource, with this database's schemas."""
    schemas = {service.database}
    for model in models:
        schemas |= {one.column.enum.schema for one in model.fields.values() if one.column.enum}
    listed = "[" + ", ".join(f'"{one}"' for one in sorted(schemas)) + "]"
    blocks = present.blocks or (
        Block("generator", "client", {"provider": '"prisma-client"'}),
        Block("datasource", "db", {"provider": '"postgresql"'}),
    )
    for block in blocks:
        settings = dict(block.settings)
        if block.kind == "datasource":
            settings["schemas"] = listed
            if not present.blocks:
                settings["// Prisma 6 and older want"] = f"url = env({_url(service)})"
        elif "prisma-client" in settings.get("provider", ""):
            settings["output"] = f'"./generated/{service.role}"'
        yield _block(block.kind, block.name, [_setting(*one) for one in settings.items()])


def _setting(name: str, value: str) -> str:
    return f"{name}: {value}" if name.startswith("//") else f"{name} = {value}"


def _url(service: Service) -> str:
    return f'"{service.role.upper()}_WRITE_URL"'


def _block(kind: str, name: str, lines: list[str]) -> str:
    inside = "".join(f"  {line}".rstrip() + "\n" for line in lines)
    return f"{kind} {name} {{\n{inside}}}\n"


def _enums(models: list[Model], present: Present) -> Iterator[str]:
    used = {one.column.enum for model in models for one in model.fields.values() if one.column.enum}
    for enum in sorted(used, key=lambda one: (one.schema, one.name)):
        known = enum_of(enum, present)
        lines = [
            name if name == value else f"{name} @map({json.dumps(value, ensure_ascii=False)})"
            for value, name in known.values.items()
        ]
        lines += ["", f'@@map("{enum.name}")'] if known.name != enum.name else [""]
        yield _block("enum", known.name, [*lines, f'@@schema("{enum.schema}")'])


def _model(model: Model, service: Service, relations: list[Relation]) -> str:
    lines = [_field(one, model) for one in model.fields.values()]
    related = [*_relations(model, relations)]
    attributes = [*_attributes(model)]
    if not model.table.keys:
        attributes = ["// No key, so Prisma can't use the table.", "@@ignore", *attributes]
    attributes += [f'@@map("{model.table.name}")'] * (model.table.name != model.name)
    attributes.append(f'@@schema("{service.database}")')
    parts = [*lines, *related, "", *attributes]
    text = _block("model", model.name, parts)
    return f"/// Read only: a write is refused.\n{text}" if model.table.is_read_only else text


def _field(field: Field, model: Model) -> str:
    parts = [field.name, field.type]
    parts[1] += "[]" if field.column.is_list else "?" if field.is_optional else ""
    for index in model.table.keys:
        if index.columns == (field.column.name,):
            kind = "@id" if index.is_primary else "@unique"
            parts.append(f'{kind}(map: "{index.name}")')
    if field.default:
        parts.append(f"@default({field.default})")
    parts += ["@updatedAt"] * field.is_updated_at
    parts += [f'@map("{field.column.name}")'] * (field.column.name != field.name)
    parts += [field.exact] * bool(field.exact)
    return " ".join(parts)


def _relations(model: Model, relations: list[Relation]) -> Iterator[str]:
    for one in relations:
        label = f'"{one.label}"' if one.label else ""
        if one.model is model:
            arguments = [label] * bool(label)
            arguments += [
                f"fields: [{', '.join(model.named(one.columns))}]",
                f"references: [{', '.join(one.to.named(one.referenced))}]",
                f"onDelete: {ACTIONS[one.key.on_delete] if one.key else 'NoAction'}",
                f"onUpdate: {ACTIONS[one.key.on_update] if one.key else 'NoAction'}",
            ]
            if one.key:
                arguments.append(f'map: "{one.key.name}"')
            optional = "?" if one.is_optional else ""
            yield f"{one.name} {one.to.name}{optional} @relation({', '.join(arguments)})"
        if one.to is model:
            many = "?" if one.is_single else "[]"
            yield f"{one.back} {one.model.name}{many}" + (f" @relation({label})" if label else "")


def _attributes(model: Model) -> Iterator[str]:
    for index in model.table.indexes:
        fields = ", ".join(model.named(index.columns))
        if not index.is_plain or (not index.is_unique and index.method not in METHODS):
            yield f"// Prisma can't say the index {index.name}."
        elif index.is_unique and len(index.columns) > 1:
            kind = "@@id" if index.is_primary else "@@unique"
            yield f"{kind}([{fields}]{_unique_name(model, index)}, map: \"{index.name}\")"
        elif not index.is_unique:
            yield f'@@index([{fields}], map: "{index.name}"{METHODS[index.method]})'


def _unique_name(model: Model, index: Index) -> str:
    """Keep the name by which code finds a row in a `where`, if the application gave one."""
    for one in model.old.attributes if model.old else ():
        if one.name in ("unique", "id"):
            named = set(one.names("fields", is_first=True))
            if name := one.argument("name"):
                if named == set(model.named(index.columns)):
                    return f", name: {name}"
    return ""
