"""Writes a plain dbt project, which knows nothing of the engine, for a service's tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from psycopg import conninfo


@dataclass(frozen=True)
class Made:
    """What a table is made of: the SQL of its rows, its constraints and indexes.

    `alterations` and `foreign_keys` are parts of ALTER TABLE, `indexes` are statements.
    """

    name: str
    definition: str
    alterations: list[str]
    foreign_keys: list[str]
    indexes: list[str]


def write(folder: Path, url: str, schema: str, tables: Sequence[Made]) -> None:
    """Write the project: a `table` model each, and hooks that add all constraints in one pass.

    Args:
        folder: where to; it must not exist.
        url: the database.
        schema: where the tables go.
        tables: what they are made of.
    """
    (folder / "models").mkdir(parents=True)
    reached = conninfo.conninfo_to_dict(url)
    output = {
        **{"type": "postgres", "threads": 4, "port": 5432, "password": "", "schema": schema},
        **{key: reached[key] for key in ("host", "user", "dbname")},
    }
    profile = {"tables": {"target": "own", "outputs": {"own": output}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(profile))
    project = {
        **{"name": "tables", "version": "1.0.0", "config-version": 2, "profile": "tables"},
        "flags": {"send_anonymous_usage_stats": False},
        "on-run-end": [
            f"alter table {schema}.{one.name} {', '.join(one.foreign_keys)}"
            for one in tables
            if one.foreign_keys
        ],
    }
    (folder / "dbt_project.yml").write_text(yaml.safe_dump(project))
    for one in tables:
        hooks = [f"alter table {schema}.{one.name} {', '.join(one.alterations)}", *one.indexes]
        config = f"config(materialized='table', post_hook={json.dumps(hooks)})"
        (folder / "models" / f"{one.name}.sql").write_text(
            f"{{{{ {config} }}}}\n{{% raw %}}{one.definition}{{% endraw %}}\n"
        )
