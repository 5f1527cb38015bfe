"""The Blytz Hire project in this folder, for its tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

from pgsplit.project.project import Project

ROOT = Path(__file__).resolve().parents[1]
PROJECT = Project(ROOT)
MONOLITH = PROJECT.name
MIRROR_SCHEMA = PROJECT.schema
SERVICES_BY_NAME = PROJECT.services
SERVICES = tuple(SERVICES_BY_NAME)
select = PROJECT.select
