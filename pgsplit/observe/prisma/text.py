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
from pgsplit.observe.prisma.tables import METHODS, Index
from pgsplit.project.project import Service

MARK = re.compile(rf"{re.escape(WRITTEN)}; checksum ([0-9a-f]{{16}})\n")
WIDTH = 96
KEPT_SETTINGS = ("provider", "url", "relationMode")
DEFAULT_BLOCKS = (
    Block("generator", "client", {"provider": '"prisma-client"'}),
    Block("datasource", "db", {"provider": '"postgresql"'}),
)
ABOUT = """\
`runner.py prisma {role}` wrote this: the tables of {database}, under the names that code has for
the monolith's. `prisma validate` and `prisma generate` are fine. Don't run `prisma migrate` or
`prisma db push` with it: the split made these tables, and Prisma would drop what it can't say.
The URLs are {variable}_WRITE_URL and {variable}_READ_URL in connections/{role}.env.
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
    # `prisma format`, which editors run, changes white space only.
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()[:16]


def _head(service: Service, changes: list[Change], present: Present) -> str:
    about = ABOUT.format(
        role=service.role, database=service.database, variable=service.role.upper()
    )
    lines = about.splitlines()
    if not present.files:
        lines += ["", *UNKNOWN.splitlines()]
    if changes:
        lines += ["", "Code has to change where it uses these:"]
    for one in changes:
        said = f"{one.where}: {one.what}"
        lines += wrap(
            said,
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "".join(f"// {_one_line(line)}".rstrip() + "\n" for line in lines)


def _one_line(text: str) -> str:
    """Keep text within one comment, whatever a name or a reason has in it."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _settings(service: Service, models: list[Model], present: Present) -> Iterator[str]:
    """Give the application's generators and datasource, with this database's schemas and URL."""
    schemas = {service.database}
    for model in models:
        schemas |= {one.column.enum.schema for one in model.fields.values() if one.column.enum}
    listed = "[" + ", ".join(map(_quoted, sorted(schemas))) + "]"
    url = f'env("{service.role.upper()}_WRITE_URL")'
    kinds = {one.kind for one in present.blocks}
    for block in (*present.blocks, *(one for one in DEFAULT_BLOCKS if one.kind not in kinds)):
        settings, notes = dict(block.settings), []
        if block.kind == "datasource":
            settings = {name: settings[name] for name in KEPT_SETTINGS if name in settings}
            if "url" in settings:
                settings["url"] = url
            elif block in DEFAULT_BLOCKS:
                notes.append(f"// Prisma 6 and older also want: url = {url}")
            settings["schemas"] = listed
        # Beside the monolith's client, which code needs until the switch and after a rollback.
        elif "prisma-client" in settings.get("provider", ""):
            settings["output"] = f'"./generated/{service.role}"'
        elif "output" in settings:
            settings["output"] = f'"./generated/{service.role}-{block.name}"'
        lines = [[name, f"= {value}"] for name, value in settings.items()]
        yield _block(block.kind, block.name, [*_aligned(lines), *notes])


def _block(kind: str, name: str, lines: list[str]) -> str:
    inside = "".join(f"  {line}".rstrip() + "\n" for line in lines)
    return f"{kind} {name} {{\n{inside}}}\n"


def _aligned(lines: list[list[str]]) -> list[str]:
    """Put the parts of lines into columns, as `prisma format` does."""
    most = max(map(len, lines), default=0)
    widths = [
        max((len(line[at]) for line in lines if len(line) > at), default=0) for at in range(most)
    ]
    return [
        " ".join(part.ljust(widths[at]) for at, part in enumerate(line)).rstrip() for line in lines
    ]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _enums(models: list[Model], present: Present) -> Iterator[str]:
    used = {one.column.enum for model in models for one in model.fields.values() if one.column.enum}
    for enum in sorted(used, key=lambda one: (one.schema, one.name)):
        known = enum_of(enum, present)
        lines = [
            name if name == value else f"{name} @map({_quoted(value)})"
            for value, name in known.values.items()
        ]
        lines += ["", *[f"@@map({_quoted(enum.name)})"] * (known.name != enum.name)]
        yield _block("enum", known.name, [*lines, f"@@schema({_quoted(enum.schema)})"])


def _model(model: Model, service: Service, relations: list[Relation]) -> str:
    lines = [_field(one, model) for one in model.fields.values()]
    lines += _relations(model, relations)
    attributes = [*_attributes(model)]
    if not model.table.keys:
        attributes = ["// It has no key, so Prisma can't use it.", "@@ignore", *attributes]
    attributes += [f"@@map({_quoted(model.table.name)})"] * (model.table.name != model.name)
    attributes.append(f"@@schema({_quoted(service.database)})")
    text = _block("model", model.name, [*_aligned(lines), "", *attributes])
    return f"/// Read only: a write is refused.\n{text}" if model.table.is_read_only else text


def _field(field: Field, model: Model) -> list[str]:
    ending = "[]" if field.column.is_list else "?" if field.is_optional else ""
    attributes = []
    alone = [one for one in model.table.keys if one.columns == (field.column.name,)]
    if alone:
        kind = "@id" if alone[0].is_primary else "@unique"
        attributes.append(f"{kind}(map: {_quoted(alone[0].name)})")
    if field.default:
        attributes.append(f"@default({field.default})")
    attributes += ["@updatedAt"] * field.is_updated_at
    attributes += [f"@map({_quoted(field.column.name)})"] * (field.column.name != field.name)
    attributes += [field.exact] * bool(field.exact)
    return [field.name, field.type + ending, *[" ".join(attributes)] * bool(attributes)]


def _relations(model: Model, relations: list[Relation]) -> Iterator[list[str]]:
    for one in relations:
        label = [_quoted(one.label)] * bool(one.label)
        if one.model is model:
            arguments = [
                *label,
                f"fields: [{', '.join(model.named(one.columns))}]",
                f"references: [{', '.join(one.to.named(one.referenced))}]",
                f"onDelete: {ACTIONS[one.key.on_delete] if one.key else 'NoAction'}",
                f"onUpdate: {ACTIONS[one.key.on_update] if one.key else 'NoAction'}",
                *([f"map: {_quoted(one.key.name)}"] if one.key else []),
            ]
            optional = "?" * one.is_optional
            yield [one.name, one.to.name + optional, f"@relation({', '.join(arguments)})"]
        if one.to is model:
            type_ = one.model.name + ("?" if one.is_single else "[]")
            yield [one.back, type_, *[f"@relation({one})" for one in label]]


def _attributes(model: Model) -> Iterator[str]:
    for index in model.table.indexes:
        is_index = not index.is_unique
        typed = [model.fields[one].type for one in index.columns if one in model.fields]
        is_odd = any(one.startswith("Unsupported") for one in typed)
        if not index.is_sayable or (is_index and is_odd):
            yield f"// Prisma can't say the index {_one_line(index.name)}."
            continue
        fields, name = ", ".join(model.named(index.columns)), f"map: {_quoted(index.name)}"
        if is_index:
            yield f"@@index([{fields}], {name}{METHODS[index.method]})"
        elif len(index.columns) > 1:
            kind = "@@id" if index.is_primary else "@@unique"
            yield f"{kind}([{fields}]{_unique_name(model, index)}, {name})"


def _unique_name(model: Model, index: Index) -> str:
    """Keep the name by which code finds a row in a `where`, if the application gave one."""
    for one in model.old.attributes if model.old else ():
        named = set(one.names("fields", is_first=True)) if one.name in ("unique", "id") else set()
        if named == set(model.named(index.columns)) and (name := one.argument("name")):
            return f", name: {name}"
    return ""
