"""The JSON Schemas of what commands print, from docs/schemas/, made strict: no field is unnamed."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from demo.project import ROOT

FOLDER = ROOT / "docs" / "schemas"
PREFIX, VERSION = "urn:pgsplit:schema:", ":1"


def read(kind: str) -> dict[str, Any]:
    """Read the schema of a kind of document, as people do."""
    return dict(json.loads((FOLDER / f"{kind}.schema.json").read_text("utf-8")))


@cache
def registry() -> Registry[Any]:
    """Give all schemas, by `$id`."""
    known: Registry[Any] = Registry()
    for path in FOLDER.glob("*.json"):
        schema = json.loads(path.read_text("utf-8"))
        Draft202012Validator.check_schema(schema)
        known = Resource.from_contents(_strict(schema)) @ known
    return known


def validate(text: str) -> dict[str, Any]:
    """Check that a text is exactly one document, as its schema describes it; give it."""
    document = json.loads(text, parse_constant=_refuse)
    schema = registry().contents(document["schema"])
    Draft202012Validator(schema, registry=registry()).validate(document)
    return dict(document)


def kind(document: dict[str, Any]) -> str:
    """Tell which kind of document this is."""
    return str(document["schema"]).removeprefix(PREFIX).removesuffix(VERSION)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _strict(schema: Any) -> Any:
    """Allow only the fields that a schema names."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(one) for name, one in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made:
        made.setdefault("additionalProperties", False)
    return made
