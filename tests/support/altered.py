"""A copy of the project that a test may alter, on the databases of a state."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import yaml

from demo.project import ROOT
from pgsplit.cli import main
from pgsplit.project.ownership import pairs
from pgsplit.project.project import Project
from tests.support.split import Done, Split, surrounded

PARTS = ("dbt_project.yml", "packages.yml", "profiles.yml", "macros", "models", "seeds", "demo")


@dataclass(frozen=True)
class Altered:
    """A copy of the project, and the databases that it is about."""

    root: Path
    split: Split

    @property
    def project(self) -> Project:
        """The project as its files are now."""
        return Project(self.root)

    def run(self, *arguments: str, **environ: str) -> Done:
        """Run a command of `pgsplit` on it, which reads its files again."""
        pairs.cache_clear()
        out, err = io.StringIO(), io.StringIO()
        target = {"DBT_TARGET_PATH": str(self.root / "target")}
        with (
            surrounded({**self.split.environ, **target, **environ}),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                code = main.run(["--project-dir", str(self.root), *arguments], "pgsplit")
            except SystemExit as end:
                code = int(end.code or 0)
        return Done(["pgsplit", *arguments], code, out.getvalue(), err.getvalue())

    def write(self, path: str, text: str) -> None:
        """Write a file of it."""
        (self.root / path).write_text(text, encoding="utf-8")

    def own(self, *lines: str) -> None:
        """Add lines to seeds/column_ownership.csv."""
        with (self.root / "seeds" / "column_ownership.csv").open("a", encoding="utf-8") as seed:
            seed.writelines(f"{line}\n" for line in lines)

    def source(self, *tables: object) -> None:
        """Add tables to models/_sources.yml."""
        path = self.root / "models" / "_sources.yml"
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        found["sources"][0]["tables"] += tables
        path.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")


def altered(split: Split, folder: Path) -> Altered:
    """Copy the project into a folder; files of the engine are linked."""
    root = folder / "project"
    root.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name)
        else:
            shutil.copy(ROOT / name, root / name)
    (root / "pgsplit").symlink_to(ROOT / "pgsplit")
    (root / "dbt_packages").mkdir()
    (root / "dbt_packages" / "pgsplit").symlink_to(ROOT / "pgsplit" / "dbt")
    return Altered(root, split)
