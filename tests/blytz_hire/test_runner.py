"""The command line as a newcomer sees it: help, names, exit codes, JSON."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from demo.project import ROOT, SERVICES, select
from pgsplit import __version__
from pgsplit.base.errors import (
    BuildFailed,
    ConnectionFailed,
    DataDiffers,
    EmbeddedFailed,
    NotReady,
    SourceMismatch,
    SplitError,
    TargetOccupied,
)
from pgsplit.cli import commands, console, main
from pgsplit.cli.main import COMMANDS, GROUPS
from pgsplit.cutover import repair
from pgsplit.load import land
from pgsplit.project.project import UnknownService
from pgsplit.state.saga import Stopped
from tests.support import schemas
from tests.support.split import Split, command_line, surrounded


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_in_80_columns(command: str) -> None:
    result = command_line(command, "--help")
    assert result.returncode == 0
    assert f"Usage: runner.py {command}" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_every_command_has_a_file_of_its_own() -> None:
    files = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    assert sorted(COMMANDS) == files


def test_sync_loads_nothing_that_only_other_commands_need() -> None:
    """A cron job starts it each minute."""
    code = (
        "import sys, runner, pgsplit.cli.commands.sync;"
        " print({'jinja2', 'psutil', 'pgsplit.postgres.copy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_help_groups_commands_in_the_order_of_a_split_in_plain_text() -> None:
    text = command_line("--help").stdout
    headings = [f"{group}:" for group in GROUPS]
    assert [line.strip() for line in text.splitlines() if line.strip() in headings] == headings
    lines = map(str.rstrip, text.splitlines())
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert [name for name in listed if name in COMMANDS] == COMMANDS
    assert text.isascii() and "\x1b" not in text  # neither boxes nor colours
    assert all(len(line) <= 80 for line in text.splitlines())


def test_help_works_where_there_is_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBT_PROJECT_DIR", raising=False)
    monkeypatch.setattr(console, "program", "pgsplit")
    assert main.run(["--help"], "pgsplit") == 0
    assert "There is no project here" in capsys.readouterr().out
    assert main.run(["switch", "--help"], "pgsplit") == 0
    assert "Usage: pgsplit switch" in capsys.readouterr().out
    assert main.run(["status"], "pgsplit") == NotReady.exit_code
    assert "--project-dir" in capsys.readouterr().err


def test_messages_name_the_program_that_was_called(
    split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "program", "pgsplit")
    with surrounded(split.environ):
        code = main.run(["--project-dir", str(ROOT), "land", "payments", "--json"], "pgsplit")
    assert code == NotReady.exit_code
    out, err = capsys.readouterr()
    assert "hint:  pgsplit provision payments\n" in err
    error = json.loads(out)["error"]
    assert error["hint"] == error["mend"] == "pgsplit provision payments"

    assert (
        console.named("./runner.py land a && runner.py run a") == "pgsplit land a && pgsplit run a"
    )
    assert console.named("/opt/runner.py and my_runner.py") == "/opt/runner.py and my_runner.py"
    console.say("Look: ./runner.py status")
    console.show_notes(["runner.py resume finishes it"])
    console.show_warnings(["fix it: runner.py repair payments"])
    assert capsys.readouterr().out == (
        "Look: pgsplit status\n"
        "note: pgsplit resume finishes it\n"
        "warning: fix it: pgsplit repair payments\n"
    )


@pytest.mark.parametrize(
    ("module", "option", "result"),
    [
        (land, "--recopy", SimpleNamespace()),
        (land, "--again", SimpleNamespace()),
        (repair, "--full", []),
        (repair, "--anew", []),
    ],
)
def test_options_work_under_their_old_names_too(
    split: Split, monkeypatch: pytest.MonkeyPatch, module: ModuleType, option: str, result: Any
) -> None:
    given: dict[str, Any] = {}

    def called(*_: object, **options: object) -> Any:
        given.update(options)
        return result

    command = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, command, called)
    for arguments, is_set in ((["payments"], False), (["payments", option], True)):
        done = split.runner(command, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert list(given.values()) == [is_set]
    help_text = command_line(command, "--help").stdout
    assert (option in help_text) is (option in ("--recopy", "--full"))


def test_main_help_names_commands_variables_and_exit_codes() -> None:
    result = command_line("--help")
    text = " ".join(result.stdout.split())
    for word in [*COMMANDS, "BLYTZ_HIRE_URL", "PAYMENTS_DB_URL", "communication", "7 build"]:
        assert word in text


def test_exit_codes_never_change() -> None:
    """Scripts depend on them."""
    assert {
        UnknownService: 2,
        ConnectionFailed: 3,
        NotReady: 4,
        SourceMismatch: 5,
        TargetOccupied: 6,
        BuildFailed: 7,
        EmbeddedFailed: 8,
        DataDiffers: 9,
        Stopped: 130,
    } == {error: error.exit_code for error in SplitError.__subclasses__()}


def test_services_have_two_names_and_run_in_phase_order() -> None:
    assert [s.database for s in select(("users", "payments_db", "payments"))] == [
        "payments_db",
        "users_db",
    ]
    assert tuple(s.database for s in select(())) == SERVICES


@pytest.mark.parametrize(
    "command",
    [
        *("provision", "land", "build", "run", "sync", "status", "verify", "totals", "report"),
        *("backup", "switch", "rollback", "complete", "abort", "history"),
    ],
)
def test_unknown_service_is_refused_with_the_known_names(command: str) -> None:
    result = command_line(command, "payment")
    assert result.returncode == UnknownService.exit_code == 2
    assert "There is no service called 'payment'" in result.stderr
    assert "communication, payments, marketplace, contracts, files, users" in result.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("paymets", "payments"), ("Users", "users"), ("user_db", "users_db"), ("filse", "files")],
)
def test_mistyped_service_is_corrected(typed: str, meant: str) -> None:
    result = command_line("switch", typed)
    assert result.returncode == 2
    said = " ".join(result.stderr.split())
    assert f"There is no service called '{typed}'. Did you mean {meant}?" in said


def test_name_that_is_like_no_services_is_not_corrected() -> None:
    assert "Did you mean" not in command_line("switch", "warehouse").stderr


def test_mistyped_command_is_corrected() -> None:
    result = command_line("anlyze")
    assert result.returncode == 2
    assert "No such command 'anlyze'. Did you mean analyze?" in " ".join(result.stderr.split())


def test_version_is_the_same_everywhere() -> None:
    assert command_line("--version").stdout == f"pgsplit {__version__}\n"
    package = yaml.safe_load((ROOT / "pgsplit" / "dbt" / "dbt_project.yml").read_text("utf-8"))
    assert package["version"] == __version__
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("runner.py sw", ["switch"]),
        ("runner.py switch pay", ["payments"]),
        ("runner.py provision co", ["communication", "contracts"]),
        ("runner.py run files payments u", ["users"]),
        ("runner.py psql m", ["monolith", "marketplace"]),
        ("runner.py url us", ["users"]),
        ("runner.py switch payments --dry", ["--dry-run"]),
    ],
)
def test_shell_completes_commands_and_services(words: str, completed: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "runner.py")],
        env={
            **os.environ,
            "_RUNNER_PY_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
    )
    assert [line.partition(",")[2] for line in done.stdout.split()] == completed, done.stderr


def test_unknown_command_exits_with_2() -> None:
    result = command_line("migrate")
    assert result.returncode == 2
    assert "No such command 'migrate'" in result.stderr
    # A hint can be pasted: it names the program as it was called.
    called = subprocess.run(["./runner.py", "migrate"], cwd=ROOT, capture_output=True, text=True)
    assert called.returncode == 2
    assert "hint:  ./runner.py --help" in called.stderr
    assert "hint:  runner.py --help" in result.stderr
    result = command_line("status", "--bogus")
    assert result.returncode == 2
    assert "hint:  runner.py status --help" in result.stderr


def test_error_is_json_when_json_was_requested(split: Split) -> None:
    result = split.runner("land", "payments", "--json")
    assert result.returncode == NotReady.exit_code
    error = json.loads(result.stdout)
    assert error["exit_code"] == NotReady.exit_code
    assert error["error"]["what"] == "payments_db has not been provisioned."
    assert error["error"]["mend"] == "runner.py provision payments"


def test_url_command_prints_the_admin_and_the_service_url(split: Split) -> None:
    assert split.runner("url", "monolith").stdout.strip() == split.connections.urls["blytz_hire"]
    assert split.runner("url", "files").stdout.strip() == split.connections.urls["files_db"]
    missing = split.runner("url", "files", "--service")
    assert missing.returncode == NotReady.exit_code
    assert "runner.py provision files" in missing.stderr
    assert split.runner("provision", "files").returncode == 0
    assert "files_service:" in split.runner("url", "files", "--service").stdout


def test_psql_connects_to_the_given_database(split: Split) -> None:
    result = split.process("psql", "monolith", "-Atc", "select count(*) > 0 from blytz_hire.users")
    assert result.stdout.strip() == "t", result.stderr


@pytest.mark.slow
def test_run_builds_a_service_in_one_command_and_is_repeatable(split: Split) -> None:
    first = split.runner("run", "files", "--json")
    assert first.returncode == 0, first.stderr
    report = schemas.validate(first.stdout)
    ((name, files),) = report["services"].items()
    assert name == "files_db"
    assert files["created"] and not files["landed_already"]
    assert files["rows_in"]["portfolio_items"] == files["rows_out"]["portfolio_items"] > 0
    assert files["tests"]["passed"] > 0 and files["tests"]["failed"] == 0

    again = split.runner("run", "files")
    assert again.returncode == 0, again.stderr
    (line,) = [line for line in again.stdout.splitlines() if line.startswith(" files_db")]
    assert f"{sum(files['rows_out'].values()):,}" in line
    assert all(len(line) <= 80 for line in again.stdout.splitlines() if "audit" not in line)


@pytest.mark.slow
def test_failed_build_exits_with_7_and_says_why(living: Split) -> None:
    living.replicate("payments_db", "update blytz_hire.payments set \"userId\" = 'ghost'")
    result = living.runner("build", "payments")
    assert result.returncode == BuildFailed.exit_code
    assert "sender_id = ghost" in result.stderr
    assert "Traceback" not in result.stderr


def test_service_that_is_not_built_is_refused(landed: Split) -> None:
    for arguments in (
        ("sync", "payments"),
        ("sync", "payments", "--follow"),
        ("totals", "payments"),
    ):
        ran = landed.runner(*arguments)
        assert ran.returncode == NotReady.exit_code
        assert "payments_db has not been built" in ran.stderr
        assert "runner.py run payments" in ran.stderr
    status = landed.runner("status", "--json")
    assert status.returncode == 0, status.stdout
    states = {name: one["state"] for name, one in json.loads(status.stdout)["services"].items()}
    assert states["payments_db"] == "landed"
    assert states["users_db"] == "absent"
