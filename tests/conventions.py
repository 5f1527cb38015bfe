"""Rules for dbt-score: every model must be described, under contract, keyed and tested."""

import csv
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dbt_score import Model, RuleViolation, Seed, Source, rule, rule_filter

MANIFEST = Path("target/everything/manifest.json")
OWNERSHIP = Path("seeds/column_ownership.csv")


@rule_filter
def is_service_table(model: Model) -> bool:
    """Tell whether a model becomes a service's table; helper models are ephemeral."""
    return bool(model.config.get("materialized") == "service_table")


@cache
def _expected_columns() -> dict[str, set[str]]:
    """Give, by model, the columns that some unit test expects a value in."""
    found: dict[str, set[str]] = {}
    for test in json.loads(MANIFEST.read_text(encoding="utf-8"))["unit_tests"].values():
        for row in test["expect"]["rows"] or []:
            found.setdefault(test["model"], set()).update(row)
    return found


@cache
def _renamed_columns() -> dict[str, set[str]]:
    """Give, by model, the columns that tests/blytz_hire/test_renames.py compares."""
    found: dict[str, set[str]] = {}
    with OWNERSHIP.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["total"] in {"same", "share", "part"}:
                found.setdefault(line["service_table"], set()).add(line["service_column"])
    return found


def _missing(what: str, names: Iterator[str]) -> RuleViolation | None:
    found = ", ".join(names)
    return RuleViolation(message=f"{what}: {found}.") if found else None


@rule
def model_is_described(model: Model) -> RuleViolation | None:
    """A model says what it holds."""
    return None if model.description else RuleViolation(message="The model has no description.")


@rule
def columns_are_described(model: Model) -> RuleViolation | None:
    """A column says what it means."""
    return _missing("Not described", (c.name for c in model.columns if not c.description))


@rule(rule_filters={is_service_table()})
def contract_is_enforced(model: Model) -> RuleViolation | None:
    """A service table has a contract, with a type for every column."""
    if not model.config.get("contract", {}).get("enforced"):
        return RuleViolation(message="The contract is not enforced.")
    return _missing("Without a type", (c.name for c in model.columns if not c.data_type))


@rule(rule_filters={is_service_table()})
def primary_key_is_tested(model: Model) -> RuleViolation | None:
    """A service table has a primary key whose uniqueness and presence are tested."""
    keys = [c for c in model.columns if any(k.type == "primary_key" for k in c.constraints)]
    if not keys:
        return RuleViolation(message="No column is the primary key.")
    if any(test.type == "present_and_unique" for test in model.tests):
        return None
    return RuleViolation(message="The model lacks the data test present_and_unique.")


@rule(rule_filters={is_service_table()})
def columns_are_tested(model: Model) -> RuleViolation | None:
    """Each column has a data test, is in the expectation of a unit test, or is only renamed."""
    tested = _expected_columns().get(model.name, set()) | _renamed_columns().get(model.name, set())
    return _missing(
        "Untested", (c.name for c in model.columns if not c.tests and c.name not in tested)
    )


@rule(rule_filters={is_service_table()})
def columns_are_owned(model: Model) -> RuleViolation | None:
    """The table's columns are compared with the column-ownership seed."""
    if any(test.type == "columns_are_owned" for test in model.tests):
        return None
    return RuleViolation(message="The model lacks the data test columns_are_owned.")


@rule(rule_filters={is_service_table()})
def sources_are_followed(model: Model) -> RuleViolation | None:
    """`config.meta.follows` names every mirror table that the model reads, if not just its own."""
    read = {parent.name for parent in model.parents if isinstance(parent, Source)}
    follows = set(model.meta.get("follows", {model.name}))
    return _missing("Not in meta.follows", iter(sorted(read - follows)))


@rule
def source_is_owned(source: Source) -> RuleViolation | None:
    """A table of the monolith has an owner, a description, and types."""
    if not source.description or not source.meta.get("owner"):
        return RuleViolation(message="The source lacks a description or `meta.owner`.")
    return _missing("Without a type", (c.name for c in source.columns if not c.data_type))


@rule
def seed_is_described(seed: Seed) -> RuleViolation | None:
    """A seed and its columns say what they hold."""
    if not seed.description:
        return RuleViolation(message="The seed has no description.")
    return _missing("Not described", (c.name for c in seed.columns if not c.description))
