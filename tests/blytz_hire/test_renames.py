"""All columns that are only renamed, in all models at once: to the services and back.

The monolith gets random rows. The models' SQL makes the services' tables from them; the reverse
models' SQL makes the monolith's tables from those. What the ownership seed calls `same`, `share`
or `part` must hold the monolith's value, and the rows that come back must be identical.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from demo.project import MONOLITH, ROOT
from tests.support.split import Split
from tests.support.stage import Stage

ROWS = 100
RENAMED = {"same", "share", "part"}
COLUMNS = """
    select column_name, format_type(atttypid, atttypmod), is_nullable = 'YES'
    from information_schema.columns
    inner join pg_attribute
        on attrelid = format('%%I.%%I', table_schema, table_name)::regclass
        and attname = column_name
    where table_schema = 'blytz_hire' and table_name = %s
    order by ordinal_position
"""
DIFFER = sql.SQL("""
    select coalesce(rebuilt.id, mirrored.id)
    from ({definition}) as rebuilt
    full join blytz_hire.{mirror} as mirrored on rebuilt.id = mirrored.id
    where record_image_ne(row(rebuilt.*), row(mirrored.*))
""")
MOVED = sql.SQL("""
    select mirrored.id
    from blytz_hire.{mirror} as mirrored
    left join {table} as stored on mirrored.id = stored.{key}
    where
        (stored.{key} is not null or ({is_whole} and mirrored.{column} is not null))
        and record_image_ne(row(mirrored.{column}), row(stored.{service_column}))
""")
STRAY = sql.SQL("""
    select stored.{key} from {table} as stored
    where not exists (select from blytz_hire.{mirror} as mirrored where mirrored.id = stored.{key})
""")


def words() -> str:
    """Give text that never repeats, some of it with unusual characters."""
    odd = random.choice(
        ["", " ", "ünï 🚀", "line\nbreak", '"quoted" \\ {}', "NULL", "日本語", "o'clock"]
    )
    return f"{odd}{random.getrandbits(40):x}"


def moment() -> str:
    """Give a timestamp as the monolith has them: with milliseconds, of any year, or infinite."""
    if random.random() < 0.05:
        return random.choice(["infinity", "-infinity", "0044-03-15 12:00:00 BC"])
    return str(datetime(1, 1, 2) + timedelta(milliseconds=random.randrange(300_000_000_000_000)))


def document() -> Any:
    """Give JSON as clients send it: mostly objects, some with the keys that the models read."""
    known = {
        "senderId": ["ann", "bob", "ünï 🚀", "", None, 7],
        "senderName": ["Ann", "", None, 7],
        "senderRole": ["va", None, ["va"]],
        "type": ["file", None, {"is": "text"}],
        "timestamp": ["2024-02-29T23:59:59.120Z", "yesterday", None, 7],
        "refundReason": ["late", "", None, 7],
        "disputeReason": ["fraud", "", None, {"code": 13}],
    }
    if random.random() < 0.2:
        return random.choice([None, 7, 1.5, True, "text", "", ["array", {"url": "a.png"}], []])
    chosen = {
        name: random.choice(values) for name, values in known.items() if random.random() < 0.7
    }
    return {**chosen, words(): random.random()}


VALUES: dict[str, Callable[[], Any]] = {
    "text": words,
    "boolean": lambda: random.random() < 0.5,
    "integer": lambda: random.choice([0, -1, random.randrange(-(2**31), 2**31)]),
    "double precision": lambda: random.choice([0.0, -0.0, 0.1 + 0.2, random.gauss(0, 1e300)]),
    "timestamp(3) without time zone": moment,
    "jsonb": lambda: Jsonb(document()),
    "jsonb[]": lambda: [
        random.choice([Jsonb(document()), None]) for _ in range(random.randrange(3))
    ],
    "text[]": lambda: [random.choice([words(), None]) for _ in range(random.randrange(3))],
}
# What a rule looks out for, so that each of its branches is taken.
SPECIAL = {
    ("notifications", "type"): lambda: random.choice(["chat_message", words()]),
    ("users", "role"): lambda: random.choice(["va", "company", words()]),
    ("proposals", "attachments"): lambda: Jsonb(random.choice([[words(), {"url": words()}], "a"])),
}


def fill(database: psycopg.Connection[Any], table: str) -> None:
    """Fill a table of the monolith with random rows; foreign keys are not checked."""
    columns = database.execute(COLUMNS, [table]).fetchall()
    rows = []
    for _ in range(ROWS):
        row = []
        for name, kind, is_nullable in columns:
            value = SPECIAL.get((table, name), VALUES[kind])
            row.append(None if is_nullable and random.random() < 0.2 else value())
        rows.append(row)
    insert = sql.SQL("insert into blytz_hire.{} values ({})").format(
        sql.Identifier(table), sql.SQL(", ").join([sql.Placeholder()] * len(columns))
    )
    database.execute(sql.SQL("delete from blytz_hire.{}").format(sql.Identifier(table)))
    database.cursor().executemany(insert, rows)


def compiled(split: Split) -> dict[str, Any]:
    """Compile the models of all services as if their tables were in the monolith's database."""
    done = split.dbt("compile", "--target", MONOLITH, "--vars", "everything: true")
    assert done.returncode == 0, done.stdout
    manifest = json.loads(
        Path(split.environ["DBT_TARGET_PATH"], "manifest.json").read_text("utf-8")
    )
    return {
        node["name"]: {
            "schema": node["schema"],
            "is_reverse": "reverse" in node["fqn"],
            "table": node["alias"],
            "relation": node["relation_name"],
            "sql": node["compiled_code"],
        }
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["config"]["materialized"] != "ephemeral"
    }


@pytest.fixture
def moved(stage: Stage, split: Split) -> Iterator[tuple[psycopg.Connection[Any], dict[str, Any]]]:
    """Give a monolith with random rows, all services' tables beside it, and the models."""
    models = stage.once("compiled", lambda: compiled(split))
    with split.monolith() as database:
        database.execute("set session_replication_role = replica")
        mirrors = [model["table"] for model in models.values() if model["is_reverse"]]
        assert len(mirrors) == 18
        for mirror in mirrors:
            fill(database, mirror)
        for model in models.values():
            if not model["is_reverse"]:
                schema = sql.Identifier(model["schema"])
                database.execute(sql.SQL("create schema if not exists {}").format(schema))
                database.execute(f"create table {model['relation']} as {model['sql']}".encode())
        yield database, models


def renamed() -> Iterator[dict[str, str]]:
    """Read the seed's renamed columns, each with the service column that holds the row's id."""
    with (ROOT / "seeds" / "column_ownership.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    keys = {
        (line["monolith_table"], line["service"], line["service_table"]): line["service_column"]
        for line in lines
        if line["monolith_column"] == "id" and line["total"] in RENAMED
    }
    for line in lines:
        if line["total"] in RENAMED:
            place = line["monolith_table"], line["service"], line["service_table"]
            yield {**line, "key": keys[place]}


def test_renamed_columns_hold_the_monoliths_values(moved: Any) -> None:
    database, models = moved
    wrong = []
    columns = list(renamed())
    assert len(columns) > 290
    for table in {models[column["service_table"]]["relation"] for column in columns}:
        assert database.execute(f"table {table} limit 1".encode()).rowcount, f"{table} is empty"
    for column in columns:
        names = {
            "mirror": sql.Identifier(column["monolith_table"]),
            "table": sql.SQL(models[column["service_table"]]["relation"]),
            "key": sql.Identifier(column["key"]),
            "column": sql.Identifier(column["monolith_column"]),
            "service_column": sql.Identifier(column["service_column"]),
            "is_whole": sql.Literal(column["total"] == "same"),
        }
        for query in (MOVED, STRAY):
            if found := database.execute(query.format(**names)).fetchall():
                wrong.append(
                    f"{column['service_table']}.{column['service_column']} is not"
                    f" {column['monolith_table']}.{column['monolith_column']} in {len(found)} rows"
                )
    assert not wrong, "\n".join(wrong)


def test_reverse_models_give_back_identical_rows(moved: Any) -> None:
    database, models = moved
    wrong = []
    for name, model in models.items():
        if model["is_reverse"]:
            query = DIFFER.format(
                definition=sql.SQL(model["sql"]), mirror=sql.Identifier(model["table"])
            )
            if found := database.execute(query).fetchall():
                wrong.append(f"{name} gives back {len(found)} rows that differ")
    assert not wrong, "\n".join(wrong)
