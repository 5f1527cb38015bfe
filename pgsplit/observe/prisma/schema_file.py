"""Makes the schema.prisma of a service, and saves it without overwriting anybody's work."""

from __future__ import annotations

import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from pgsplit.base import files
from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.observe.prisma import changes, models, present, relations, tables, text
from pgsplit.observe.prisma.changes import Change
from pgsplit.postgres.catalog import live_tables
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service


@dataclass(frozen=True)
class SchemaFile:
    """A schema, what it has, and what an application's code finds changed.

    `source` is the application's present schema, if there is one, in the files `sources`.
    """

    service: Service
    source: Path | None
    sources: tuple[Path, ...]
    text: str
    models: tuple[str, ...]
    kept_fields: int
    fields: int
    changes: tuple[Change, ...]


def make(service: Service, connections: Connections, path: Path | None) -> SchemaFile:
    """Write the schema of a service's database; reads only.

    Args:
        service: a service whose tables are built.
        connections: where its database is.
        path: the application's present schema, or its folder; None if there is none.

    Returns:
        The schema.

    Raises:
        NotReady: the service is not built, or the application's schema can't be read.
        SourceMismatch: the application's schema is not one for the monolith.
    """
    before = present.read(path) if path else present.Present()
    with connections.connect(service.database) as database:
        found = tables.read(database, service)
        mirror = live_tables(database, service.mirror)
    made = models.build(service, found, before)
    related, lost = relations.build(made, before)
    not_null = {name: one.not_null for name, one in mirror.items()}
    changed = changes.find(service, made, before, not_null, related, lost)
    return SchemaFile(
        service,
        path,
        before.files,
        text.write(service, made, related, changed, before),
        tuple(one.name for one in made),
        sum(len(one.by_old_column) for one in made),
        sum(len(one.fields) for one in made),
        tuple(changed),
    )


def save(path: Path, made: SchemaFile, *, force: bool = False) -> None:
    """Save a schema; atomic. A file that somebody else wrote or edited stays, unless forced.

    Args:
        path: the file; its folder has to exist.
        made: the schema.
        force: overwrite the file, whoever wrote it; but never the application's present schema.

    Raises:
        TargetOccupied: the file is not as this command wrote it, or is the application's own.
        NotReady: it can't be written.
    """
    path = path.resolve()  # replace a link's target, not the link
    if path in made.sources:
        raise TargetOccupied(
            "That is the application's present schema, which is still needed for the monolith.",
            where=str(path),
            hint=f"Write beside it: --output {made.service.role}.prisma",
        )
    try:
        was = path.read_text(encoding="utf-8") if path.exists() else None
        if was == made.text:
            return
        if was is not None and not force and not text.is_as_written(was):
            given = f" --from {shlex.quote(str(made.source))}" if made.source else ""
            raise TargetOccupied(
                "The file was edited, or something else wrote it. It stays as it is.",
                where=str(path),
                hint=f"Compare: runner.py prisma {made.service.role}{given} | diff"
                f" {shlex.quote(str(path))} -\nthen overwrite it with --force.",
            )
        # It holds no secret: whoever may read an application's code may read it.
        mode = stat.S_IMODE(path.stat().st_mode) if was is not None else 0o644
        files.replace(path, made.text)
        path.chmod(mode)
    except (OSError, UnicodeError) as error:
        raise NotReady(
            f"The schema can't be written: {error}",
            where=str(path),
            hint="Name a file in a folder that you may write to: --output FILE",
        ) from error
