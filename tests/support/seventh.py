"""A second project whose monolith is the database of a completed service of the first one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from demo.project import ROOT
from pgsplit.cli.main import run
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Project, Service
from pgsplit.routing.env_file import Side
from tests.support.client_tables import Shape, Table
from tests.support.split import Done, Split, command_line, surrounded

SKILLS = ROOT / "examples" / "skills"
COLUMNS = (
    "id, va_profile_id, skill_name, category, difficulty, assessment_type, score, completed_at"
)
ONE = "(%(id)s, 'profile', 'SQL', 'technical', 'hard', 'quiz', %(number)s, now())"
PLACES = {
    Side.MONOLITH: "marketplace_db.skills_assessments",
    Side.SERVICE: "skills_db.assessments",
}
# How clients write what leaves.
ASSESSMENTS = Table(
    "skills",
    {side: f"insert into {place} ({COLUMNS}) values {ONE}" for side, place in PLACES.items()},
    {
        side: f"update {place} set score = %(number)s where id = %(id)s"
        for side, place in PLACES.items()
    },
    {side: f"delete from {place} where id = %(id)s" for side, place in PLACES.items()},
    {side: Shape(place, "score") for side, place in PLACES.items()},
)


class Seventh:
    """The project of `examples/skills`, in a copy: dbt writes into a project's folder."""

    def __init__(self, split: Split, folder: Path) -> None:
        self.folder = folder / "skills"
        shutil.copytree(SKILLS, self.folder)
        self.project = Project(self.folder)
        inherited = {name: value for name, value in os.environ.items() if "_URL" not in name}
        self.environ = inherited | {
            "MARKET_URL": split.connections.urls["marketplace_db"],
            "MARKET_CONNECTIONS": str(folder / "connections"),
            "MARKET_BACKUPS": str(folder / "backups"),
            "DBT_TARGET_PATH": str(folder / "dbt" / "target"),
            "DBT_LOG_PATH": str(folder / "dbt" / "logs"),
            "COLUMNS": "300",
        }

    @property
    def service(self) -> Service:
        """Its only service."""
        return self.project.services["skills_db"]

    @property
    def connections(self) -> Connections:
        """Where its databases are."""
        return resolve(self.project, self.environ)

    def runner(self, *arguments: str) -> Done:
        """Run a command of this project."""

        def main(given: Sequence[str]) -> int:
            return run(["--project-dir", str(self.folder), *given], "pgsplit")

        with surrounded(self.environ):
            return command_line(*arguments, main=main)
