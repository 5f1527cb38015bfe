"""Whether a backup could be made now, by the programs and in the folder that it would use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence

from pgsplit.backup import folders
from pgsplit.backup.scope import look
from pgsplit.base.errors import NotReady
from pgsplit.base.text import size
from pgsplit.postgres.connect import describe
from pgsplit.postgres.programs import errors, program, run
from pgsplit.project.endpoints import Connections

# A schema that no database has: pg_dump connects, compares versions, and writes no table.
NOTHING = ("--schema-only", "--schema=pg_toast_temp_0", "--no-password")


def require_ready(
    target: str, connections: Connections, *, tables: Sequence[tuple[str, str]] | None = None
) -> None:
    """Check that a database could be backed up; writes nothing that stays.

    Args:
        target: the database, as `Connections` names it.
        connections: where it is.
        tables: the tables whose rows would be wanted; None means all.

    Raises:
        NotReady: pg_dump can't connect or is too old, the folder can't be written or has no room,
            or the login may not read everything.
    """
    project, url = connections.project, connections.url(target)
    home = folders.folder(project)
    with folders.usable(home, project):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".try"):
            free = shutil.disk_usage(home).free
    with connections.connect(target) as database:
        needed = look(database, tables).bytes
    if free < needed:
        raise NotReady(
            f"A backup of {target} may need {size(needed)} of disk, the size of its tables;"
            f" {size(free)} are free.",
            where=str(home),
            hint=f"export {project.variable('BACKUPS')}=/a/folder/with/room, or: --no-backup",
        )
    code, said = run(*program("pg_dump", url, *NOTHING), lambda: None)
    if code and "no matching schemas" not in said:
        raise NotReady(
            f"pg_dump can't back up {target}. {errors(said)}",
            where=describe(url),
            hint="Install the client programs of the server's version, or: --no-backup",
        )
