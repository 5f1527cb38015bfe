"""A service's file of routes: what applications were given is remembered, and a file that is
missing, stale, of another monolith or on a full disk is put right by what the message says.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from demo.project import MONOLITH, ROOT
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from tests.blytz_hire.test_switch_faults import kill_at
from tests.support.servers import PASSWORD
from tests.support.split import Done, Split
from tests.support.switching import (
    PAYMENTS,
    as_service,
    assert_agreed,
    move,
    one,
    ran,
    words,
)

APPLICATION_URL = "BLYTZ_HIRE_APPLICATION_URL"


def web(split: Split) -> str:
    """Give the URL of an application's own login to the monolith."""
    if not split.server.execute("select from pg_roles where rolname = 'web'"):
        split.server.execute(f"create role web login password '{PASSWORD}'")
    return with_database(split.server.tcp, MONOLITH, user="web")


def routes(split: Split) -> env_file.Routes:
    return env_file.read(PAYMENTS, split.connections)


def path_of(split: Split) -> Path:
    return env_file.file(PAYMENTS, split.connections)


def user_of(url: str) -> str:
    return str(conninfo_to_dict(url)["user"])


def pasted(split: Split, said: str, **environ: str) -> str:
    """Run a hint's commands in a shell, as whoever pastes it does."""
    script = said.replace("runner.py", f"{sys.executable} {ROOT / 'runner.py'}")
    done = subprocess.run(
        ["bash", "-ec", script],
        env={**split.environ, **environ},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return words(done.stdout + done.stderr)


def hint_of(done: Done, about: str = "payments.env") -> str:
    """Give the first line of the hint of the warning, or error, that is about something."""
    said = done.stdout + done.stderr
    found = re.search(rf"{re.escape(about)}.*?\n\s+hint:\s+(.*)", said)
    assert found, said
    return found[1]


def warned(split: Split, what: str) -> str:
    """Check that status warns of something, and give the command that fixes it."""
    done = split.runner("status", "payments")
    assert done.returncode == NotReady.exit_code, done.stdout
    assert what in words(done.stdout)
    return hint_of(done)


def assert_content(split: Split) -> None:
    ran(split, "status", "payments")
    assert_agreed(split)


# What applications were given is remembered


def test_rollback_gives_applications_the_login_that_they_had(verified: Split) -> None:
    """Each command runs in a shell of its own, and only the first knows their URL."""
    application = web(verified)
    done = verified.runner("provision", "payments", **{APPLICATION_URL: application})
    assert done.returncode == 0, done.stderr
    move(verified, "switch")
    assert routes(verified).read == routes(verified).write == routes(verified).own
    said = move(verified, "rollback")
    assert routes(verified).read == routes(verified).write == application
    assert "runner's own login" not in said
    assert_content(verified)


def test_own_login_is_given_to_applications_only_with_a_note(split: Split) -> None:
    said = ran(split, "provision", "payments")
    note = "note: applications log in to the monolith as postgres, the runner's own login"
    assert note in said
    assert f"{APPLICATION_URL}=" in said
    # Given on purpose, it is what was asked for.
    own = split.connections.monolith_url
    done = split.runner("provision", "users", **{APPLICATION_URL: own})
    assert "runner's own login" not in done.stdout


def test_url_equal_to_the_runners_counts_as_given(split: Split) -> None:
    split.runner("provision", "payments", **{APPLICATION_URL: web(split)})
    assert user_of(routes(split).write) == "web"
    done = split.runner(
        "provision", "payments", **{APPLICATION_URL: split.environ["BLYTZ_HIRE_URL"]}
    )
    assert done.returncode == 0
    assert routes(split).write == split.connections.monolith_url


def test_rollback_with_a_file_of_an_earlier_version_says_what_applications_get(
    switched: Split,
) -> None:
    path = path_of(switched)
    path.write_text("".join(x for x in path.open() if "MONOLITH_URL" not in x))
    ran(switched, "status", "payments")
    said = move(switched, "rollback")
    assert "applications log in to the monolith as postgres, the runner's own login" in said
    assert user_of(routes(switched).write) == "postgres"
    assert_content(switched)


def test_lost_file_does_not_give_applications_the_runners_login(verified: Split) -> None:
    application = web(verified)
    verified.runner("provision", "payments", **{APPLICATION_URL: application})
    before = routes(verified).own
    path_of(verified).unlink()
    hint = warned(verified, f"{path_of(verified)} is missing, and with it the password")
    assert hint == "runner.py provision payments --new-password"
    done = verified.runner(*shlex.split(hint)[1:])
    said = words(done.stderr)
    assert done.returncode == NotReady.exit_code
    assert "The applications of payments_db log in to the monolith as web;" in said
    assert not path_of(verified).exists()
    with psycopg.connect(before):
        pass  # nothing was changed
    hint = said.split("hint: ")[1].split(" or, ")[0].replace(" runner.py", "\nrunner.py")
    assert "web:PASSWORD@" in hint
    pasted(verified, hint.replace("PASSWORD@", "s3cret@") + " --new-password")
    assert user_of(routes(verified).write) == "web"
    assert_content(verified)
    path_of(verified).unlink()
    own = 'export BLYTZ_HIRE_APPLICATION_URL="$BLYTZ_HIRE_URL"'
    assert own in said
    pasted(verified, f"{own}\nrunner.py provision payments --new-password")
    assert routes(verified).write == verified.connections.monolith_url
    assert_content(verified)


# A file of another monolith


def test_file_of_another_monolith_is_named_and_kept(split: Split, tmp_path: Path) -> None:
    """As after a demo: the folder has files for another server than BLYTZ_HIRE_URL names."""
    folder = tmp_path / "connections"
    folder.mkdir()
    demo = (
        "# Where the applications of payments find their data.\n"
        "PAYMENTS_SERVICE_URL='postgresql://payments_service:old@/payments_db?host=/tmp/pgsplit-0'\n"
        "PAYMENTS_READ_URL='postgresql://postgres@/blytz_hire?host=/tmp/pgsplit-0123456789ab'\n"
        "PAYMENTS_WRITE_URL='postgresql://postgres@/blytz_hire?host=/tmp/pgsplit-0123456789ab'\n"
    )
    (folder / "payments.env").write_text(demo)
    here = {"BLYTZ_HIRE_CONNECTIONS": str(folder)}
    done = split.runner("status", "payments", **here)
    assert done.returncode == NotReady.exit_code
    said = words(done.stdout)
    assert f"warning: {folder}/payments.env is for another server, database payments_db on" in said
    said = pasted(split, hint_of(done), **here)
    assert "payments_db?" not in said and f"warning: {folder}/payments.env is for another" in said
    kept = [one for one in folder.iterdir() if one.name != "payments.env"]
    assert len(kept) == 1 and kept[0].read_text() == demo
    assert f"that file is called {kept[0].name} now" in said
    text = (folder / "payments.env").read_text()
    assert "pgsplit-0'" not in text and "pgsplit-0123456789ab" not in text
    assert "runner's own login" in said
    done = split.runner("status", "payments", **here)
    assert done.returncode == 0, done.stdout


def test_server_under_another_name_is_the_same(verified: Split) -> None:
    """As on the machine of another operator, who calls it by its address."""
    here = {"BLYTZ_HIRE_URL": with_database(verified.server.tcp, MONOLITH)}
    here |= {"PAYMENTS_DB_URL": with_database(verified.server.tcp, "payments_db")}
    done = verified.runner("status", "payments", **here)
    assert done.returncode == 0, done.stdout
    done = verified.runner("switch", "payments", "--dry-run", "--no-backup", **here)
    assert done.returncode == 0, done.stderr


def test_monolith_that_moved_is_named_before_applications_go_there(verified: Split) -> None:
    """The service is the same; where its applications find the monolith nobody answers any more."""
    path = verified.connections.folder / "payments.env"
    path.write_text(path.read_text().replace(f"/{MONOLITH}", f"/{MONOLITH}_before"))
    moved = {"BLYTZ_HIRE_URL": with_database(verified.server.tcp, MONOLITH)}
    moved |= {"PAYMENTS_DB_URL": verified.connections.urls["payments_db"]}
    done = verified.runner("switch", "payments", "--dry-run", **moved)
    assert done.returncode == NotReady.exit_code
    assert "payments.env names another monolith, database blytz_hire_before" in words(done.stderr)
    done = verified.runner("status", "payments", **moved)
    assert "warning: " in done.stdout and "names another monolith" in words(done.stdout)
    said = pasted(verified, hint_of(done), **moved)
    assert "runner's own login" in said
    assert conninfo_to_dict(routes(verified).write)["host"] == "127.0.0.1"
    assert verified.runner("status", "payments", **moved).returncode == 0


def test_applications_may_know_the_monolith_by_another_name(verified: Split) -> None:
    application = web(verified)
    verified.runner("provision", "payments", **{APPLICATION_URL: application})
    assert_content(verified)
    ran(verified, "switch", "payments", "--dry-run", "--no-backup")


# A file that is stale, missing or can't be written


@pytest.mark.parametrize("command", ["provision payments", "resume"])
def test_stale_file_of_a_second_machine_is_put_right(verified: Split, command: str) -> None:
    stale, own = path_of(verified).read_text(), routes(verified).own
    move(verified, "switch")
    path_of(verified).write_text(stale)
    hint = warned(verified, "says that writes go to the monolith; they belong to the service")
    assert hint == "runner.py provision payments"
    ran(verified, *command.split())
    assert routes(verified).write == routes(verified).read == routes(verified).own == own
    assert_content(verified)
    stale = path_of(verified).read_text()
    move(verified, "rollback")
    path_of(verified).write_text(stale)
    warned(verified, "says that writes go to the service; they belong to the monolith")
    ran(verified, *command.split())
    assert routes(verified).writes_at is Side.MONOLITH
    assert_content(verified)


def test_stale_reads_are_put_right_and_applications_told(verified: Split, tmp_path: Path) -> None:
    stale = path_of(verified).read_text()
    ran(verified, "switch", "payments", "--reads")
    path_of(verified).write_text(stale)
    hint = warned(verified, "says that reads go to the monolith; they belong to the service")
    told = {"BLYTZ_HIRE_AFTER_CHANGE": f"echo $SERVICE >> {tmp_path}/told"}
    pasted(verified, hint, **told)
    assert (tmp_path / "told").read_text() == "payments\n"
    assert (routes(verified).reads_at, routes(verified).writes_at) == (Side.SERVICE, Side.MONOLITH)
    pasted(verified, hint, **told)  # nothing has changed
    assert (tmp_path / "told").read_text() == "payments\n"


def test_lost_file_of_a_switched_service_is_written_again(switched: Split) -> None:
    path_of(switched).unlink()
    hint = warned(switched, f"{path_of(switched)} is missing, and with it the password of")
    # Without a new password it can't be, and that is said.
    said = ran(switched, "provision", "payments")
    assert "payments_service has a password that is not in" in said
    assert f"To give it another: {hint}" in said
    pasted(switched, hint)
    assert routes(switched).write == routes(switched).own
    assert_content(switched)
    with as_service(switched) as service:
        assert one(service, "select current_user") == "payments_service"


def test_password_that_was_changed_elsewhere_is_noticed(verified: Split) -> None:
    stale = path_of(verified).read_text()
    tcp = {"PAYMENTS_DB_URL": with_database(verified.server.tcp, "payments_db")}
    verified.runner("provision", "payments", "--new-password", **tcp)
    elsewhere = path_of(verified).read_text()
    stale = elsewhere.replace(
        str(conninfo_to_dict(env_file.read_url(path_of(verified)))["password"]), "of-before"
    )
    path_of(verified).write_text(stale)
    done = verified.runner("status", "payments", **tcp)
    assert "has a password that payments_service no longer has" in words(done.stdout)
    refused = verified.runner("switch", "payments", "--no-backup", **tcp)
    assert refused.returncode == NotReady.exit_code
    assert "has a password that payments_service no longer has" in words(refused.stderr)
    said = words(verified.runner("provision", "payments", **tcp).stdout)
    assert "payments_service has a password that is not in" in said
    pasted(verified, hint_of(done), **tcp)
    assert verified.runner("status", "payments", **tcp).returncode == 0


def test_shell_that_does_not_know_a_service_makes_no_other_database(switched: Split) -> None:
    """Whoever forgets PAYMENTS_DB_URL would get an empty database, and routes to it."""
    here = {"PAYMENTS_DB_URL": with_database(switched.server.socket, "elsewhere")}
    before = path_of(switched).read_text()
    done = switched.runner("status", "payments", **here)
    assert "If payments_db has not moved, set PAYMENTS_DB_URL instead" in words(done.stdout)
    done = switched.runner("provision", "payments", "--new-password", **here)
    assert done.returncode == NotReady.exit_code
    assert "payments_db is switched, and there is no such database here" in words(done.stderr)
    assert path_of(switched).read_text() == before
    assert_content(switched)


def test_unreadable_file_is_named_with_what_fixes_it(verified: Split) -> None:
    path = path_of(verified)
    path.rename(path.with_name("aside"))
    path.mkdir()
    done = verified.runner("status", "payments")
    assert done.returncode == NotReady.exit_code
    assert f"{path} can't be read: Is a directory" in words(done.stdout)
    hint = done.stdout.split("Move it away: ")[1].splitlines()[0]
    subprocess.run(["sh", "-ec", hint], check=True)
    path.with_name("aside").rename(path)
    assert_content(verified)


def test_file_that_was_written_on_another_machine_can_be_copied_from_there(
    verified: Split, tmp_path: Path
) -> None:
    ran(verified, "provision", "payments")
    done = verified.runner("status", "payments", BLYTZ_HIRE_CONNECTIONS=str(tmp_path))
    assert f"to keep the password, copy the file from {os.uname().nodename}:" in words(done.stdout)
    assert str(path_of(verified).resolve()) in done.stdout


def limited(split: Split, limit: Sequence[str], *arguments: str, **environ: str) -> Done:
    """Run runner.py under a limit that even root keeps to."""
    return subprocess.run(
        [*limit, sys.executable, str(ROOT / "runner.py"), *arguments],
        env={**split.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


FULL = ("prlimit", "--fsize=64")
FORBIDDEN = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")


def read_only(split: Split) -> Sequence[str]:
    """Mount the folder read-only, for one command; skip the test where nobody may."""
    limit = ("unshare", "-m", "sh", "-c", MOUNT, str(split.connections.folder))
    if subprocess.run([*limit, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    return limit


@pytest.mark.parametrize(
    ("limit", "said", "hint"),
    [
        pytest.param(FORBIDDEN, "Permission denied", "chmod u+rwX ", marks=as_root),
        (FULL, "File too large", "Make room on its disk: df -h "),
    ],
)
def test_folder_that_takes_no_file_is_refused_before_there_is_a_password(
    split: Split, limit: Sequence[str], said: str, hint: str
) -> None:
    folder = split.connections.folder
    folder.mkdir(mode=0o500)
    url = with_database(split.server.tcp, MONOLITH)
    done = limited(split, limit, "provision", "payments", BLYTZ_HIRE_URL=url)
    assert done.returncode == NotReady.exit_code, done.stderr
    assert f"The services' own URLs can't be written: {said}" in words(done.stderr)
    assert f"{hint}{folder}" in words(done.stderr)
    assert split.server.execute("select 1 from pg_roles where rolname = 'payments_service'") == []
    folder.chmod(0o700)
    ran(split, "provision", "payments")
    assert routes(split).own


def test_folder_that_is_read_only_or_full_stops_no_command_half_way(switched: Split) -> None:
    """No traceback, and the same command works once the folder can be written."""
    read_only_folder = read_only(switched)
    for limit, said in ((read_only_folder, "Read-only file system"), (FULL, "File too large")):
        for command in (("rollback", "payments", "--no-backup"), ("provision", "payments")):
            done = limited(switched, limit, *command)
            assert done.returncode == NotReady.exit_code, done.stderr
            assert f"The services' own URLs can't be written: {said}" in words(done.stderr)
            assert "Traceback" not in done.stderr
            assert_content(switched)
    move(switched, "rollback")
    done = limited(switched, read_only_folder, "abort", "payments")
    assert done.returncode == NotReady.exit_code, done.stderr
    assert "payments.env can't be removed: Read-only file system" in words(done.stderr)
    ran(switched, "resume")
    assert not path_of(switched).exists()


def test_switch_whose_file_can_not_be_written_is_finished_by_resume(verified: Split) -> None:
    limit = read_only(verified)
    kill_at(verified, "switch: decide", "done", "switch", "payments", "--no-backup")
    done = limited(verified, limit, "resume")
    assert done.returncode == NotReady.exit_code, done.stderr
    assert "payments.env can't be written: Read-only file system" in words(done.stderr)
    ran(verified, "resume")
    assert_content(verified)
