"""Runs dbt in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.base.errors import BuildFailed
from pgsplit.postgres import session_settings
from pgsplit.postgres.connect import describe
from pgsplit.postgres.throttle.unthrottled import ONE_PROCESS_SETTINGS
from pgsplit.project.endpoints import Connections

# The command that starts dbt.
DBT = (sys.executable, "-m", "dbt.cli.main")
# The engine's dbt package, which a project finds by this variable, or by a path of its own.
PACKAGE = Path(__file__).parents[1] / "dbt"
PACKAGE_NAME = "pgsplit"
PACKAGE_VARIABLE = "PGSPLIT_DBT"
INSTALLING = threading.Lock()
MANIFEST = "manifest.json"
# The models alone: some tests ask the database as they are compiled.
COMPILE = (
    *("compile", "--no-introspect", "--no-populate-cache"),
    *("--select", "resource_type:model", "--indirect-selection", "empty"),
)
EACH = """
import json, sys
from dbt.cli.main import dbtRunner
for number, call in enumerate(json.loads(sys.argv[1])):
    if not dbtRunner().invoke(call).success:
        sys.exit(10 + number)
"""
# What parses ahead; its last argument is added.
PARSER = (sys.executable, "-c", EACH)
PARSED = "partial_parse.msgpack"
# A database that is made later doesn't have these settings; else dbt would parse again.
SET_BY_DATABASE = """
    select split_part(setting, '=', 1) from pg_catalog.pg_db_role_setting as given
    inner join pg_catalog.pg_database as database on database.oid = given.setdatabase
    cross join unnest(given.setconfig) as setting
    where database.datname = current_database()
"""
# What the profile adds to the settings of dbt's sessions.
SETTINGS_VARIABLE = "PGSPLIT_SETTINGS"
# Whether what dbt does waits while the throttle wants work to pause.
BREATHES_VARIABLE = "PGSPLIT_BREATHES"


def run(
    arguments: Sequence[str],
    target: str,
    connections: Connections,
    makes: str,
    on_node: Callable[[str], None] = lambda name: None,
) -> Path:
    """Run a dbt command on a target and wait for it.

    dbt gets a separate process because it has global state, so that two builds can run at once. It
    gets a target path for each target because it parses each differently; the parse is kept there.

    Args:
        arguments: the command and its options, such as `build`.
        target: the database; dbt's target has the same name.
        connections: where the databases are.
        makes: a file in dbt's target path that the command has to write.
        on_node: called with the name of each model and test that dbt has finished.

    Returns:
        dbt's target path, with its artifacts.

    Raises:
        BuildFailed: dbt stopped before its end; a failed test doesn't count.
    """
    _require_package(connections.project.root)
    folder, options = _places(target, target, connections)
    made = folder / makes
    made.unlink(missing_ok=True)
    if connections.throttle.is_on and arguments[0] == "build":
        options += ["--threads", "1"]
    command = [*DBT, "--log-format", "json", *arguments, *options]
    with connections.connect(target) as database:
        settings = _settings(database, connections)
    code, said = _spawn(command, connections, settings, on_node)
    if code not in (0, 1) or not made.exists():
        raise _stopped(arguments[0], target, said, code, connections)
    return folder


def parse_ahead(targets: Sequence[str], connections: Connections) -> None:
    """Parse the project for some targets, so that `run` finds it parsed; what is parsed is skipped.

    One process does it, since the second parse takes half of the first. It may run while dbt works
    on other targets. What can't be parsed is not told here: `run` parses it again, and says why.

    Args:
        targets: the databases, which need not exist yet.
        connections: where they are.
    """
    _require_package(connections.project.root)
    places = [_places(target, target, connections) for target in targets]
    calls = [
        ["--log-format", "json", "parse", *options]
        for folder, options in places
        if not (folder / PARSED).exists()
    ]
    if calls:
        with connections.connect_to_any(connections.monolith) as monolith:
            settings = _settings(monolith, connections, SET_BY_DATABASE)
        _spawn([*PARSER, json.dumps(calls)], connections, settings, lambda name: None)


def compile_models(
    targets: Sequence[str],
    connections: Connections,
    on_node: Callable[[str], None] = lambda name: None,
) -> list[Path]:
    """Compile the models of some targets, one after the other in one process: dbt starts slowly.

    No database has to be up. The target paths are not those of `run`, so builds may run meanwhile.

    Args:
        targets: the databases.
        connections: where they are.
        on_node: called with the name of each model that dbt has compiled.

    Returns:
        The target path of each, with its manifest.

    Raises:
        BuildFailed: dbt can't compile a model.
    """
    _require_package(connections.project.root)
    places = [_places(target, f"{target}.offline", connections) for target in targets]
    for folder, _ in places:
        (folder / MANIFEST).unlink(missing_ok=True)
    calls = [["--log-format", "json", *COMPILE, *options] for _, options in places]
    command = [sys.executable, "-c", EACH, json.dumps(calls)]
    code, said = _spawn(command, connections, "", on_node)
    if code:
        failed = targets[code - 10] if code - 10 in range(len(targets)) else targets[0]
        raise _stopped("compile", failed, said, code, connections)
    return [folder for folder, _ in places]


def _places(target: str, kept: str, connections: Connections) -> tuple[Path, list[str]]:
    """Give the target path of a command, and the options that say where things are."""
    root = connections.project.root
    if connections.dbt_folder:
        folder, logs = (connections.dbt_folder / name / kept for name in ("target", "logs"))
    else:
        folder = Path(os.environ.get("DBT_TARGET_PATH") or root / "target") / kept
        logs = Path(os.environ.get("DBT_LOG_PATH") or root / "logs") / kept
    options = ["--target", target, "--project-dir", str(root), "--profiles-dir", str(root)]
    return folder, [*options, "--target-path", str(folder), "--log-path", str(logs)]


def _spawn(
    command: Sequence[str],
    connections: Connections,
    settings: str,
    on_node: Callable[[str], None],
) -> tuple[int, list[str]]:
    """Run a process of dbt; give its exit code and the errors that it has logged."""
    said: list[str] = []
    with subprocess.Popen(
        command,
        # Without the caller's DBT_… variables: DBT_EMPTY or DBT_EXCLUDE would change the build.
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("DBT_")},
            **connections.environ(),
            PACKAGE_VARIABLE: str(PACKAGE),
            SETTINGS_VARIABLE: settings,
            BREATHES_VARIABLE: "1" if connections.throttle.is_on else "",
        },
        cwd=connections.project.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o077,  # logs may hold rows
    ) as process:
        connections.throttle.started(process.pid)
        assert process.stdout is not None
        for line in process.stdout:
            event = _event(line)
            if event.get("result"):
                on_node(str(event["node"]))
            elif event.get("level") == "error":
                said.append(str(event["msg"]))
    return process.returncode, said


def _stopped(
    verb: str, target: str, said: Sequence[str], code: int, connections: Connections
) -> BuildFailed:
    return BuildFailed(
        "dbt stopped: " + ("\n".join(said) or f"it exited with {code}"),
        where=describe(connections.urls[target]),
        hint=f"dbt {verb} --target {target}",
    )


def _settings(
    database: psycopg.Connection[Any], connections: Connections, leaves_out: str = ""
) -> str:
    """Undo for dbt's sessions what a database or a role sets for others, as `connect` does."""
    # A setting that was undone has the source `session` from then on.
    undone = dict(database.execute(session_settings.UNDONE).fetchall())
    for (name,) in database.execute(leaves_out.encode()).fetchall() if leaves_out else ():
        undone.pop(name, None)
    is_17 = database.info.server_version >= 170000
    since_17 = session_settings.SINCE_17 if is_17 else {}
    alone = ONE_PROCESS_SETTINGS if connections.throttle.is_on else {}
    return session_settings.dbt_options({**undone, **since_17, **alone})


def _require_package(root: Path) -> None:
    """Have dbt find the engine's package, if the project has not been set up or was moved."""
    with INSTALLING:
        if (root / "dbt_packages" / PACKAGE_NAME).exists():
            return
        done = subprocess.run(
            [*DBT, "--quiet", "deps", "--project-dir", str(root), "--profiles-dir", str(root)],
            env={**os.environ, PACKAGE_VARIABLE: str(PACKAGE)},
            cwd=root,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise BuildFailed(
            f"dbt can't install the package {PACKAGE_NAME}: {(done.stdout + done.stderr).strip()}",
            where=str(root / "packages.yml"),
            hint=f"{PACKAGE_VARIABLE}={PACKAGE} dbt deps",
        )


def _event(line: str) -> dict[str, Any]:
    """Read a line of dbt's log; anything but an event, such as a traceback, is an error."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return {"level": "error", "msg": line.rstrip()}
    info = event["info"]
    node = event.get("data", {}).get("node_info", {}).get("node_name")
    result = info["name"].startswith("Log") and info["name"].endswith("Result")
    return {"result": result, "level": info["level"], "msg": info["msg"], "node": node}
