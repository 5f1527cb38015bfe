"""The folders of backups; an unfinished one has another name, so it is never taken for a backup."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pgsplit.base.errors import NotReady
from pgsplit.base.files import sync
from pgsplit.project.project import Project
from pgsplit.project.settings import Settings

MANIFEST = "backup.json"
UNFINISHED = ".part"
PHASE = re.compile("[a-z][a-z-]{0,23}")  # with the rest of the name no longer than a restore point
NAME = re.compile(rf"[a-z]+-{PHASE.pattern}-\d{{8}}T\d{{6}}Z(-\d+)?")


def folder(project: Project, environ: Mapping[str, str] = os.environ) -> Path:
    """Name the folder of all backups: `…_BACKUPS`, or else `backups` in the project."""
    given = Settings(project, environ).get(project.variable("BACKUPS"))
    return Path(given or project.root / "backups").absolute()


@contextmanager
def usable(home: Path, project: Project) -> Iterator[None]:
    """Raise NotReady if the system refuses something in the backups' folder."""
    try:
        yield
    except OSError as error:
        raise NotReady(
            f"The folder of the backups can't be used: {error.strerror or error}",
            where=str(error.filename or home),
            hint=f"export {project.variable('BACKUPS')}=/a/folder/that/you/may/write",
        ) from error


@contextmanager
def unfinished(path: Path, project: Project) -> Iterator[Path]:
    """Make a backup's folder under its unfinished name for the block.

    Atomic: it gets its final name when the block succeeds, and is removed when it fails.
    """
    part = path.with_name(path.name + UNFINISHED)
    with usable(part, project):
        part.mkdir(mode=0o700)
    try:
        yield part
        with usable(path.parent, project):
            sync(part)
            part.rename(path)
            sync(path.parent)
    except BaseException:
        remove(part, project)
        raise


def free_path(home: Path, name: str) -> Path:
    """Name a new folder; neither it nor an unfinished one of that name exists."""
    paths = (home / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100))))
    return next(
        path
        for path in paths
        if not path.exists() and not path.with_name(path.name + UNFINISHED).exists()
    )


def remove(part: Path, project: Project) -> None:
    """Remove an unfinished folder, and kill the pg_dump that a killed runner has left."""
    for process in psutil.process_iter(["cmdline"]):
        if f"--file={part}" in (process.info["cmdline"] or ()):
            with suppress(psutil.Error):
                process.kill()
                process.wait(10)
    if part.exists():
        with usable(part.parent, project):
            shutil.rmtree(part)


def private(name: str, flags: int) -> int:
    """Open a file for its owner alone, as `open` wants it from an opener."""
    return os.open(name, flags, 0o600)


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest; durable when this returns."""
    with open(file, "w", encoding="utf-8", opener=private) as out:
        json.dump(content, out, indent=2, ensure_ascii=False)
        out.flush()
        os.fsync(out.fileno())
