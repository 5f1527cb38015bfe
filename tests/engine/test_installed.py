"""The engine as an installed package, with a project that shares nothing with Blytz Hire.

The wheel is installed in its own environment, which can see this one's libraries, and in a folder
that can't see the repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from demo.project import ROOT
from tests.support.run_folder import short_folder

SHOP = ROOT / "examples" / "shop"
NEW_ORDER = "insert into ordering.orders values ('order-new', 'customer-1', 999, '2026-01-01')"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True)
class Installed:
    """The command `pgsplit`, and a copy of the shop outside the repository."""

    program: Path
    project: Path
    elsewhere: Path

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command on the shop, from another folder; give what it printed."""
        environ = {name: value for name, value in os.environ.items() if "DBT" not in name}
        done = subprocess.run(
            [self.program, "--project-dir", self.project, *arguments],
            cwd=self.elsewhere,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    shutil.copytree(ROOT / "pgsplit", source / "pgsplit")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = (*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    subprocess.run(wheel, check=True)
    (built,) = folder.glob("pgsplit-*.whl")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    into = (sys.executable, "-m", "pip", "--python", python, "--quiet", "install")
    subprocess.run([*into, "--no-deps", built], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    project = short_folder("shop-") / "shop"
    shutil.copytree(SHOP, project)
    shop = Installed(folder / "venv" / "bin" / "pgsplit", project, folder)
    try:
        yield shop
    finally:
        shop.run("down", "--wipe")
        shutil.rmtree(project.parent)


@pytest.mark.slow
def test_help_needs_no_project(installed: Installed) -> None:
    done = subprocess.run(
        [installed.program, "--help"], cwd=installed.elsewhere, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "database per service" in done.stdout
    assert "There is no project here" in done.stdout
    done = subprocess.run(
        [installed.program, "status"], cwd=installed.elsewhere, capture_output=True, text=True
    )
    assert done.returncode == 4
    assert "--project-dir DIR" in done.stderr


@pytest.mark.slow
def test_another_project_is_switched_and_rolled_back(installed: Installed) -> None:
    """Its databases have no suffix, its roles the same names, and its shared entity is no user."""
    installed.run("demo", "--rows", "500")
    assert "Proven: 550 rows" in installed.run("verify")
    installed.run("switch", "ordering", "--no-backup", "--wait-for-write", "0")
    url = installed.run("url", "ordering", "--service").strip()
    with psycopg.connect(url) as service:
        service.execute(NEW_ORDER)
        found = service.execute("select (ordering.get_shared_customer('customer-1')).full_name")
        assert found.fetchone() == ("Customer 1",)
    schema = installed.run("prisma", "ordering")
    assert '  customerId String   @map("customer_id")\n' in schema
    assert "model Order {" in schema
    assert "/// Read only: a write is refused.\nmodel Customer {" in schema
    assert "Customer: a copy that accounts writes; read only. Not here: email." in schema
    installed.run("sync", "ordering")
    with psycopg.connect(installed.run("url", "monolith").strip()) as monolith:
        arrived = monolith.execute(
            'select "totalCents" from shop.orders where id = %s', ["order-new"]
        )
        assert arrived.fetchone() == (999,)
        monolith.execute("update shop.customers set \"fullName\" = 'New' where id = 'customer-1'")
    installed.run("sync", "ordering")
    printed = json.loads(installed.run("events", "ordering", "--since", "0", "--json"))
    (event,) = printed["services"]["ordering"]["events"]
    assert (event["type"], event["customerId"]) == ("CUSTOMER_UPDATED", "customer-1")
    assert event["data"] == {"id": "customer-1", "full_name": "New"}
    found = json.loads(installed.run("status", "ordering", "--json"))["services"]["ordering"]
    assert (found["state"], found["customer_cache_hits"]) == ("switched", 1)
    installed.run("rollback", "ordering", "--no-backup")
    assert "Proven: 551 rows" in installed.run("verify", "--whole")
    assert "1" in installed.run("parity", "ordering")
