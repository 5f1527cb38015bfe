"""Settings: from split.toml, .env and the environment; what can't be right is refused."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from demo.project import ROOT
from pgsplit.backup import folders
from pgsplit.base.errors import ConnectionFailed, NotReady, SplitError
from pgsplit.cli import console, main
from pgsplit.project.endpoints import resolve
from pgsplit.project.project import Project
from pgsplit.project.settings import Settings, known, masked
from tests.support import schemas

SECRET = "s3cret-w0rd"
URL = f"postgresql://mover:{SECRET}@db.example.com/shop"
OTHER = "postgresql://mover@other.example.com/ordering"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of a project that is on no server."""
    for name in known(Project(ROOT / "examples" / "shop")):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "program", "runner.py")
    shutil.copytree(ROOT / "examples" / "shop", tmp_path / "shop")
    return tmp_path / "shop"


def run(root: Path, *arguments: str) -> int:
    """Run a command on the project."""
    return main.run(["--project-dir", str(root), *arguments], "pgsplit")


def test_environment_wins_over_dotenv_and_this_over_the_settings_file(root: Path) -> None:
    (root / "split.toml").write_text(
        'url = "postgresql://a/shop"\nmax_lag = "1min"\nbackups = "kept"\n'
        '[services.ordering]\nurl = "postgresql://a/ordering"\n'
    )
    (root / ".env").write_text(f"SHOP_URL='{URL}'\nSHOP_MAX_LAG=2min\nUNRELATED=1\n")
    settings = Settings(Project(root), {"SHOP_MAX_LAG": "3min", "HOME": "/x"})
    assert settings["SHOP_MAX_LAG"] == "3min"
    assert settings["SHOP_URL"] == URL
    assert settings["ORDERING_URL"] == "postgresql://a/ordering"
    assert settings["HOME"] == "/x" and settings.get("UNRELATED") is None
    assert [settings.source(f"SHOP_{one}") for one in ("MAX_LAG", "URL", "BACKUPS", "SCRATCH")] == [
        "environment",
        ".env",
        "split.toml",
        "default",
    ]
    found = resolve(Project(root), {"SHOP_MAX_LAG": "3min"})
    assert found.max_lag_seconds == 180
    assert found.monolith_url.endswith("@db.example.com:5432/shop")
    assert found.urls["ordering"].endswith("a:5432/ordering")
    # A path in the file is the project's, wherever the command runs.
    assert folders.folder(Project(root), {}) == root / "kept"
    assert folders.folder(Project(root), {"SHOP_BACKUPS": "/b"}) == Path("/b")
    # What is empty in the environment is as if no file had it.
    assert resolve(Project(root), {"SHOP_MAX_LAG": ""}).max_lag_seconds == 300


def test_secret_comes_from_a_file_or_a_command(root: Path) -> None:
    (root / "secret").write_text(f"{URL}\n")
    (root / "split.toml").write_text(
        'url_file = "secret"\n[services.ordering]\n'
        f"url_command = \"echo '{OTHER}'; echo once >> ran\"\n"
    )
    found = resolve(Project(root), {})
    assert SECRET in found.monolith_url
    assert found.urls["ordering"].endswith("@other.example.com:5432/ordering")
    assert (root / "ran").read_text() == "once\n"
    settings = Settings(Project(root), {})
    assert settings.source("SHOP_URL") == "split.toml, from a file"
    assert folders.folder(Project(root), {}) == root / "backups"
    assert (root / "ran").read_text() == "once\n"  # a value that nobody needs is not read


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('ulr = "x"', "ulr is no setting. Did you mean url?", "Known are url, replication_url"),
        ('[services.orderin]\nurl = "x"', "Did you mean services.ordering.url?", "Known are"),
        ('[servces.ordering]\nurl = "x"', "Did you mean services.ordering.url?", "Known are"),
        ('password = "x"', "password is no setting.", "Known are"),
        ("max_lag = 60", "max_lag is 60, and has to be text.", 'max_lag = "…"'),
        (f'url = "{URL}"', "url holds a password.", "SHOP_URL=…"),
        (f'url = "host=x password={SECRET}"', "url holds a password.", "url_command"),
        (f'url = "postgresql://x/y?password={SECRET}"', "url holds a password.", "url_file"),
        (f'url = "postgresql://x:{SECRET}@y:bad/z"', "url holds a password.", "url_file"),
        ('url = "a"\nurl_file = "b"', "are given more than once.", "Keep one."),
        ("url = ", "split.toml can't be read: Invalid value (at", "docs/connections.md"),
        ('max_lag = "soon"', "SHOP_MAX_LAG is 'soon', which is no length of time.", "5min"),
        ('url_file = "nowhere"', "The file with url can't be read", "nowhere"),
        ('url_command = "echo oh >&2; exit 3"', "gave nothing: oh", "Try it: echo oh"),
        ('url_command = "true"', "gave nothing: it exited with 0", "Try it: true"),
    ],
)
def test_what_can_not_be_right_in_the_settings_file_is_refused(
    root: Path, text: str, said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "split.toml").write_text(text)
    for command in (("config",), ("status",)):
        assert run(root, *command) == NotReady.exit_code
        printed = capsys.readouterr()
        assert said in printed.err and hint in printed.err
        assert "split.toml" in printed.err and SECRET not in printed.err + printed.out


def test_misspelt_name_in_dotenv_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".env").write_text("SHOP_ULR=x\n")
    assert run(root, "config") == NotReady.exit_code
    said = capsys.readouterr().err
    assert "SHOP_ULR is no setting. Did you mean SHOP_URL?" in said
    assert str(root / ".env") in said


def test_url_that_is_none_is_refused_with_its_place(root: Path) -> None:
    (root / "split.toml").write_text('url = "monolith.example.com"')
    with pytest.raises(ConnectionFailed, match="SHOP_URL is no PostgreSQL URL") as refused:
        resolve(Project(root), {})
    assert refused.value.where == "split.toml"


def test_config_shows_settings_and_hides_passwords(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / ".env").write_text(f"SHOP_URL={URL}\n")
    (root / ".env").chmod(0o644)
    monkeypatch.setenv("SHOP_MAX_LAG", "90s")
    monkeypatch.setenv("SHOP_BACKUP", "/b")
    assert run(root, "config") == 0
    said = capsys.readouterr().out
    assert SECRET not in said and "password=***" in said and "host=db.example.com" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert ".env" in lines["url"] and "environment" in lines["max_lag"]
    assert "default" in lines["services.ordering.url"]
    flat = " ".join(said.split())
    assert (
        "The environment has SHOP_BACKUP, which is no setting. Did you mean SHOP_BACKUPS?" in flat
    )
    assert f"warning: Others can read {root / '.env'}: chmod 600 {root / '.env'}" in flat

    assert run(root, "config", "--json") == 0
    document = schemas.validate(capsys.readouterr().out)
    assert SECRET not in json.dumps(document)
    shown = {one["variable"]: one for one in document["settings"]}
    assert list(shown) == list(known(Project(root)))
    assert (shown["SHOP_MAX_LAG"]["value"], shown["SHOP_MAX_LAG"]["source"]) == (
        "90s",
        "environment",
    )


def test_config_exports_settings_for_a_shell(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "echo 'it is' \"$HOME\""
    (root / "split.toml").write_text(f"after_change = {json.dumps(odd)}\n")
    (root / ".env").write_text(f"SHOP_URL={URL}\n")
    assert run(root, "config", "--export") == 0
    statements = capsys.readouterr().out
    script = f'{statements}\nprintf %s "$SHOP_URL|$SHOP_AFTER_CHANGE"'
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == f"{URL}|{odd}"
    assert shlex.quote(odd) in statements


@pytest.mark.parametrize(
    "url",
    [
        URL,
        f"host=x user=y password='{SECRET}'",
        f"postgresql://x/y?password={SECRET}",
        f"postgresql://x/y?sslpassword={SECRET}",
        f"postgresql://x:{SECRET}@[bad",
        SECRET,
    ],
)
def test_password_is_hidden_however_it_is_given(url: str) -> None:
    assert SECRET not in masked(url)


def test_readable_url_is_shown_as_it_is() -> None:
    assert masked(OTHER) == OTHER


def test_unreadable_dotenv_is_refused(root: Path) -> None:
    (root / ".env").write_bytes(b"SHOP_URL=\xff\xfe\n")
    with pytest.raises(SplitError, match=r"\.env can't be read"):
        Settings(Project(root), {})
