"""Reads an application's present schema.prisma: what its code calls models, fields and relations.

It reads what Prisma itself accepts, and no more than is needed here: names, types and attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pgsplit.base.errors import NotReady, SourceMismatch

# A string, a comment, or one other character.
TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/|.', re.DOTALL)
COMMENTS = ("//", "/*")
HEAD = re.compile(r"(\w+)\s+(\w+)\s*$")
FIELD = re.compile(r"(\w+)\s+(Unsupported\(\"(?:[^\"\\]|\\.)*\"\)|\w+)(\[\])?(\?)?(?=\s|@|$)")
ATTRIBUTE = re.compile(r"@@?([\w.]+)")
POSTGRES = ("postgresql", "postgres")
WRITTEN = "// Written by pgsplit"


@dataclass(frozen=True)
class Attribute:
    """An attribute such as `@default(now())`: its name, and the text between the parentheses."""

    name: str
    text: str = ""

    def argument(self, name: str, *, is_first: bool = False) -> str:
        """Give an argument's text; with `is_first` it may stand first, without its name."""
        parts = list(split(self.text))
        for part in parts:
            if found := re.fullmatch(rf"{name}\s*:\s*(.*)", part, re.DOTALL):
                return found[1]
        if is_first and parts and not re.match(r"\w+\s*:", parts[0]):
            return parts[0]
        return ""

    def string(self, name: str) -> str:
        """Give an argument that is a string, without its quotes."""
        return unquoted(self.argument(name, is_first=True))

    def names(self, name: str, *, is_first: bool = False) -> tuple[str, ...]:
        """Give an argument that is a list of fields; their sort order or length is left out."""
        text = self.argument(name, is_first=is_first)
        return tuple(re.split(r"\W", part, maxsplit=1)[0] for part in split(text.strip("[]")))


@dataclass(frozen=True)
class Field:
    """A field: a column, or a relation to another model."""

    name: str
    type: str
    is_list: bool
    is_optional: bool
    attributes: tuple[Attribute, ...]

    def get(self, name: str) -> Attribute | None:
        """Give an attribute, if it has it."""
        return next((one for one in self.attributes if one.name == name), None)

    @property
    def column(self) -> str:
        """The column that it stands for."""
        mapped = self.get("map")
        return mapped.string("name") if mapped else self.name


@dataclass(frozen=True)
class Model:
    """A model: a table, its fields by name, and the attributes of the model itself."""

    name: str
    fields: Mapping[str, Field]
    attributes: tuple[Attribute, ...]

    @property
    def table(self) -> str:
        """The table that it stands for."""
        mapped = next((one for one in self.attributes if one.name == "map"), None)
        return mapped.string("name") if mapped else self.name


@dataclass(frozen=True)
class Enum:
    """An enum: the type that it stands for, and its values' names by what the database has."""

    name: str
    type: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Block:
    """A block of settings as it was written: a generator or the datasource."""

    kind: str
    name: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Present:
    """An application's schema, and the files that it is in; without any, an empty one."""

    files: tuple[Path, ...] = ()
    models: Mapping[str, Model] = field(default_factory=dict)
    enums: Mapping[str, Enum] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()

    @cached_property
    def by_table(self) -> Mapping[str, Model]:
        """The models by their tables."""
        return {one.table: one for one in self.models.values()}

    def relations(self, model: Model) -> list[Field]:
        """Give a model's fields that are relations."""
        return [one for one in model.fields.values() if one.type in self.models]

    def opposite(self, model: Model, relation: Field) -> Field | None:
        """Find the field on a relation's other side."""
        name = _relation_name(relation)
        return next(
            (
                one
                for one in self.models[relation.type].fields.values()
                if one.type == model.name and _relation_name(one) == name and one is not relation
            ),
            None,
        )


def _relation_name(relation: Field) -> str:
    attribute = relation.get("relation")
    return attribute.string("name") if attribute else ""


def read(path: Path) -> Present:
    """Read an application's schema.

    Args:
        path: a file, or a folder whose `.prisma` files make one schema together.

    Returns:
        Its models, enums, generators and datasource.

    Raises:
        NotReady: it can't be read, or it has no model.
        SourceMismatch: it is for another kind of database, or `runner.py prisma` has written it.
    """
    try:
        names = sorted(path.rglob("*.prisma")) if path.is_dir() else [path]
        texts = {name.resolve(): name.read_text(encoding="utf-8-sig") for name in names}
    except (OSError, UnicodeError) as error:
        raise NotReady(
            f"The application's schema can't be read: {error}",
            where=str(path),
            hint="Name the application's present schema.prisma, or its folder, with --from.",
        ) from error
    files = tuple(name for name, text in texts.items() if not text.startswith(WRITTEN))
    if texts and not files:
        raise SourceMismatch(
            "This schema was written for a service's database; it has the new names already.",
            where=str(path),
            hint="Name the schema with which the application uses the monolith: --from FILE",
        )
    models: dict[str, Model] = {}
    enums: dict[str, Enum] = {}
    settings: list[Block] = []
    for kind, name, body in _blocks("\n".join(map(texts.__getitem__, files)), path):
        if kind == "model":
            models[name] = _model(name, body)
        elif kind == "enum":
            enums[name] = _enum(name, body)
        elif kind in ("generator", "datasource"):
            settings.append(Block(kind, name, _settings(body)))
    if not models:
        raise NotReady(
            "There is no model in it.",
            where=str(path),
            hint="Name the application's present schema.prisma, or its folder, with --from.",
        )
    for block in settings:
        provider = unquoted(block.settings.get("provider", ""))
        if block.kind == "datasource" and provider not in POSTGRES:
            raise SourceMismatch(
                f"Its datasource is for {provider or 'no provider'}, and the monolith is a"
                " PostgreSQL database.",
                where=str(path),
                hint='Name the schema whose datasource has provider = "postgresql".',
            )
    return Present(files, models, enums, tuple(settings))


def unquoted(text: str) -> str:
    """Give a string literal's text; other text as it is."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def split(text: str, at: str = ",") -> Iterator[str]:
    """Split text at commas that stand in no string and in no parentheses."""
    depth, part = 0, ""
    for found in TOKEN.finditer(text):
        token = found[0]
        depth += (token in "([{") - (token in ")]}")
        if token == at and not depth:
            yield part.strip()
            part = ""
        elif not token.startswith(COMMENTS):
            part += token
    if part.strip():
        yield part.strip()


def _blocks(text: str, path: Path) -> Iterator[tuple[str, str, str]]:
    """Give each block's kind, name and body, without comments."""
    head, body, depth = "", "", 0
    for found in TOKEN.finditer(text):
        token = found[0]
        if token.startswith(COMMENTS):
            continue
        if token == "}" and depth == 1:
            named = HEAD.search(head)
            if named:
                yield named[1], named[2], body
            head, body, depth = "", "", 0
            continue
        depth += (token == "{") - (token == "}")
        if not depth:
            head += token
        elif not (token == "{" and depth == 1):
            body += token
    if depth:
        raise NotReady(
            f"A block is not closed: {' '.join(head.split())} {{",
            where=str(path),
            hint=f"npx prisma validate --schema {path}",
        )


def _statements(body: str) -> Iterator[str]:
    """Give a block's statements: a line each, unless parentheses go on to the next."""
    return (one for one in split(body, "\n") if one)


def _model(name: str, body: str) -> Model:
    fields: dict[str, Field] = {}
    attributes: list[Attribute] = []
    for statement in _statements(body):
        if statement.startswith("@@"):
            attributes += _attributes(statement)
        elif found := FIELD.match(statement):
            rest = tuple(_attributes(statement[found.end() :]))
            fields[found[1]] = Field(found[1], found[2], bool(found[3]), bool(found[4]), rest)
    return Model(name, fields, tuple(attributes))


def _enum(name: str, body: str) -> Enum:
    stands_for, values = name, {}
    for statement in _statements(body):
        mapped = next((one for one in _attributes(statement) if one.name == "map"), None)
        if statement.startswith("@@"):
            stands_for = mapped.string("name") if mapped else stands_for
        else:
            value = statement.split()[0]
            values[mapped.string("name") if mapped else value] = value
    return Enum(name, stands_for, values)


def _attributes(text: str) -> Iterator[Attribute]:
    position = 0
    while found := ATTRIBUTE.search(text, position):
        position, inside = found.end(), ""
        if text[position : position + 1] == "(":
            inside, position = _parenthesized(text, position)
        yield Attribute(found[1], inside)


def _parenthesized(text: str, start: int) -> tuple[str, int]:
    """Give what stands in the parentheses that begin at a position, and where they end."""
    depth = 0
    for found in TOKEN.finditer(text, start):
        depth += (found[0] == "(") - (found[0] == ")")
        if not depth:
            return text[start + 1 : found.start()].strip(), found.end()
    return text[start + 1 :].strip(), len(text)


def _settings(body: str) -> dict[str, str]:
    found = (one.partition("=") for one in _statements(body))
    return {name.strip(): " ".join(value.split()) for name, _, value in found}
