"""--json: always exactly one document, as docs/schemas/ describes it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import click
import jsonschema
import pytest

from demo.project import ROOT
from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.base.text import rfc3339
from pgsplit.cli import console
from pgsplit.cli.document import Document, schema_id
from pgsplit.cli.main import COMMANDS, cli
from pgsplit.observe import history
from pgsplit.postgres.connect import with_database
from tests.support import schemas
from tests.support.split import Split, command_line
from tests.support.stage import Stage

OF_LINES = {"event", "follower"}
LIKE_A_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d")


def data(split: Split, *arguments: str, code: int = 0, kind: str = "") -> dict[str, Any]:
    """Run a command with --json; check its one document."""
    ran = split.runner(*arguments, "--json")
    assert ran.returncode == code, (arguments, ran.stdout, ran.stderr)
    document = schemas.validate(ran.stdout)
    assert document["exit_code"] == code
    assert schemas.kind(document) == (kind or arguments[0])
    return document


def commands_with_json() -> list[str]:
    """Name the commands that have --json."""
    context = click.Context(cli)
    found = [(name, cli.get_command(context, name)) for name in COMMANDS]
    return [name for name, one in found if one and any("--json" in p.opts for p in one.params)]


def test_every_command_with_json_has_a_schema() -> None:
    described = {path.name.removesuffix(".schema.json") for path in schemas.FOLDER.glob("*.json")}
    assert described == {*commands_with_json(), *OF_LINES, "common", "error"}
    for name in described:
        assert schemas.read(name)["$id"] == schema_id(name)


def test_schema_refuses_what_it_does_not_describe() -> None:
    good = {"schema": schema_id("backups"), "backups": [], "exit_code": 0}
    schemas.validate(json.dumps(good))
    for bad in (
        {**good, "unknown": 1},
        {**good, "exit_code": 77},
        {**good, "backups": {}},
        {"schema": schema_id("backups"), "exit_code": 0},
    ):
        with pytest.raises(jsonschema.ValidationError):
            schemas.validate(json.dumps(bad))
    with pytest.raises(json.JSONDecodeError):
        schemas.validate(json.dumps(good) * 2)


def test_commands_that_look_print_one_document(verified: Split) -> None:
    for command in ("analyze", "history", "status", "backups", "report", "resume"):
        data(verified, command)
    for command in ("verify", "totals", "sync", "events", "prisma", "land", "provision"):
        found = data(verified, command, "payments")
        if command not in ("prisma",):
            assert list(found["services"]) == ["payments_db"]
    data(verified, "events", "payments", "--keep", "9d")
    data(verified, "status", "payments")
    data(verified, "land", "users", code=NotReady.exit_code, kind="error")
    data(verified, "switch", "payments", "--reads", "--dry-run")
    data(verified, "switch", "payments", "--reads")
    data(verified, "rollback", "payments")
    data(verified, "abort", "payments")


@pytest.mark.slow
def test_commands_that_move_print_one_document(verified: Split) -> None:
    made = data(verified, "backup", "payments")["backups"][0]
    verified.server.execute("create database restored")
    url = with_database(verified.server.tcp, "restored")
    data(verified, "restore", made["path"], url)
    assert data(verified, "switch", "payments")["services"]["payments_db"]["backup"]
    data(verified, "status", "payments")
    data(verified, "rollback", "payments", "--dry-run")
    data(verified, "repair", "payments", "--full")
    data(verified, "repair", "payments")
    data(verified, "rollback", "payments", "--no-backup")
    data(verified, "verify", "payments")
    data(verified, "switch", "payments", "--no-backup", "--wait-for-write", "0")
    data(verified, "complete", "payments", "--no-backup", "--dry-run")
    data(verified, "complete", "payments", "--no-backup")
    data(verified, "report")


def test_commands_that_build_print_one_document(stage: Stage) -> None:
    """A build as it led to a state; `test_runner` and `test_rehearse` check a run's documents."""
    stage.enter("built")
    (said,) = stage.said("built")
    assert schemas.kind(schemas.validate(said)) == "build"
    run, demo = schemas.read("run"), schemas.read("demo")
    of_run = {name: run["properties"][name] for name in demo["properties"] if name != "schema"}
    assert of_run == {name: one for name, one in demo["properties"].items() if name != "schema"}


def test_result_and_error_are_one_document(living: Split) -> None:
    living.replicate("payments_db", "update payments_db.payments set sender_id = 'ghost'")
    found = data(living, "parity", "payments", code=DataDiffers.exit_code)
    assert found["references"] and found["error"]["code"] == "data_differs"
    planned = data(living, "reconcile", "payments", code=DataDiffers.exit_code)
    assert planned["actions"] or planned["helpless"]


def test_mistyped_command_line_prints_one_document() -> None:
    for arguments in (("status", "--bogus"), ("nothing",), ("land", "paymets"), ("up",)):
        ran = command_line(*arguments, "--json")
        found = schemas.validate(ran.stdout)
        assert (schemas.kind(found), found["exit_code"]) == ("error", 2), arguments


def test_bug_prints_one_document(monkeypatch: pytest.MonkeyPatch, split: Split) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(history, "history", bug)
    printed: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **_: printed.append(text))
    with pytest.raises(ZeroDivisionError):
        split.runner("history", "--json")
    (document,) = printed
    found = schemas.validate(document)
    assert found["exit_code"] == 1
    assert found["error"]["what"] == "ZeroDivisionError: nobody thought of this"


def test_interrupted_command_prints_one_document(
    monkeypatch: pytest.MonkeyPatch, split: Split
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "history", interrupted)
    found = data(split, "history", code=130, kind="error")
    assert found["error"]["what"] == "stopped"


def test_help_and_version_are_no_documents() -> None:
    for arguments in (("status", "--json", "--help"), ("--version", "status", "--json")):
        ran = command_line(*arguments)
        assert ran.returncode == 0 and not ran.stdout.lstrip().startswith("{"), ran.stdout


def test_notes_and_warnings_never_mix_with_a_document() -> None:
    console.begin("runner.py", as_json=True)
    try:
        assert console.out.stderr
    finally:
        console.end(0)
    assert not console.out.stderr


def test_times_are_rfc_3339_in_utc(verified: Split) -> None:
    """Whatever looks like a time in what we print is one, but for values of columns."""
    times = []
    for command in ("history", "report", "status"):
        texts = strings(data(verified, command))
        times += [text for text in texts if LIKE_A_TIME.match(text)]
    pattern = re.compile(schemas.read("common")["$defs"]["time"]["pattern"].replace("Z$", ""))
    assert len(times) > 10
    for text in times:
        assert pattern.match(text) and text.endswith(("Z", "+00:00")), text


def strings(value: Any) -> list[str]:
    """Give all texts within a document, but for samples and what people read."""
    if isinstance(value, dict):
        return [one for part in value.values() for one in strings(part)]
    if isinstance(value, list):
        return [one for part in value for one in strings(part)]
    return [value] if isinstance(value, str) else []


def test_moment_without_a_zone_is_refused() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(noon) == "2026-01-01T10:00:00Z"
    assert rfc3339(noon.replace(microsecond=5)) == "2026-01-01T10:00:00.000005Z"
    assert rfc3339(noon.replace(microsecond=5), "seconds") == "2026-01-01T10:00:00Z"
    with pytest.raises(ValueError, match="no time zone"):
        rfc3339(noon.replace(tzinfo=None))


def test_what_json_can_not_say_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (float("nan"), object()):
        document = Document()
        document.begin(True)
        document.hold("status", {"services": value})
        with pytest.raises((TypeError, ValueError)):
            document.end(0)
    assert not capsys.readouterr().out


def test_followers_print_a_document_on_each_line(living: Split) -> None:
    with living.start("sync", "payments", "--follow", "--json") as follower:
        assert follower.stdout is not None
        found = schemas.validate(follower.stdout.readline())
        follower.send_signal(signal.SIGINT)
        rest = follower.communicate(timeout=60)[0]
    assert schemas.kind(found) == "follower"
    assert (found["service"], found["trouble"]) == ("payments_db", "")
    for line in rest.splitlines():
        schemas.validate(line)
    assert follower.returncode == 0


def test_document_ends_quietly_if_nobody_reads_it(landed: Split) -> None:
    command = f"'{sys.executable}' runner.py history --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", command], env=dict(landed.environ), cwd=ROOT, capture_output=True, text=True
    )
    assert ran.stdout.startswith("{") and ran.stderr == ""
