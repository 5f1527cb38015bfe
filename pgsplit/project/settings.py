"""A project's settings: from the environment, `.env`, `split.toml`, or by default.

Each setting has a variable and a key in `split.toml`, both beside `dbt_project.yml`. The
environment wins over `.env`, and this over `split.toml`. No secret may be in `split.toml`: there
KEY_file names a file that holds a value, and KEY_command a shell command that prints it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dotenv import dotenv_values
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import NotReady
from pgsplit.project.project import Project

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_FILE, ENV_FILE = "split.toml", ".env"
SERVICES = "services"
REFERENCES = ("file", "command")
COMMAND_SECONDS = 60.0
DEFAULT, ENVIRONMENT = "default", "environment"


@dataclass(frozen=True)
class Setting:
    """A setting: its key in `split.toml`, its variable, and what it is by default.

    A value in `split.toml` is relative to the project if it `is_path`; one that `is_url` may have a
    password. Nobody is shown one that `is_secret`.
    """

    key: str
    variable: str
    default: str
    is_path: bool = False
    is_url: bool = False
    is_secret: bool = False


@dataclass(frozen=True)
class _Given:
    """A value, where it is from, and how it is got: as it is, from a file, or from a command."""

    text: str
    source: str
    how: str = ""


def known(project: Project) -> dict[str, Setting]:
    """Give all settings of a project, by variable."""
    name, variable = project.name, project.variable
    found = [
        Setting("url", variable("URL"), "the embedded server", is_url=True),
        Setting("replication_url", variable("REPLICATION_URL"), "as url", is_url=True),
        Setting("control_url", variable("CONTROL_URL"), "as url", is_url=True),
        Setting("application_url", variable("APPLICATION_URL"), "as url", is_url=True),
        Setting("pgbouncer_admin_url", "PGBOUNCER_ADMIN_URL", "no PgBouncer", is_url=True),
        Setting("connections", variable("CONNECTIONS"), "connections", is_path=True),
        Setting("backups", variable("BACKUPS"), "backups", is_path=True),
        Setting("scratch", variable("SCRATCH"), "the project's folder", is_path=True),
        Setting("after_change", variable("AFTER_CHANGE"), "no command"),
        Setting("notify", variable("NOTIFY"), "no command"),
        Setting("notify_url", variable("NOTIFY_URL"), "no webhook", is_secret=True),
        Setting("max_lag", variable("MAX_LAG"), "5min"),
        Setting("max_impact", variable("MAX_IMPACT"), "no throttle"),
    ]
    for target, one in project.services.items():
        key, beside = f"{SERVICES}.{one.role}", f"database {target}, where {name} is"
        found += [
            Setting(f"{key}.url", variable("URL", target), beside, is_url=True),
            Setting(
                f"{key}.replication_url",
                variable("REPLICATION_URL", target),
                f"as {key}.url",
                is_url=True,
            ),
            Setting(f"{key}.health_url", one.health_variable, "no page is asked"),
        ]
    return {one.variable: one for one in found}


class Settings(Mapping[str, str]):
    """The settings that are in force, by variable; also all other variables of the environment.

    A value in a file, or from a command, is read when it is asked for.
    """

    def __init__(self, project: Project, environ: Mapping[str, str] = os.environ) -> None:
        """Read what is given.

        Raises:
            NotReady: a file can't be read, a name in it is no setting, or a secret is in
                `split.toml`.
        """
        self.project, self.environ = project, environ
        self.known = known(project)
        self.given = {**self._toml(), **self._dotenv()}
        self.given |= {
            name: _Given(environ[name], ENVIRONMENT) for name in self.known if name in environ
        }
        self.values_read: dict[str, str] = {}

    @property
    def toml(self) -> Path:
        """The project's settings file."""
        return self.project.root / SETTINGS_FILE

    @property
    def dotenv(self) -> Path:
        """The project's `.env`."""
        return self.project.root / ENV_FILE

    def __getitem__(self, name: str) -> str:
        given = self.given.get(name)
        if given is None:
            return self.environ[name]
        if not given.how:
            return given.text
        if name not in self.values_read:
            self.values_read[name] = self._read(self.known[name], given)
        return self.values_read[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.environ, **self.given})

    def __len__(self) -> int:
        return len({**self.environ, **self.given})

    def where(self, variable: str) -> str:
        """Name the place of a setting for a message."""
        source = self.source(variable)
        return "the environment" if source in (DEFAULT, ENVIRONMENT) else source

    def source(self, variable: str) -> str:
        """Tell where a setting comes from."""
        given = self.given.get(variable)
        if given is None or not self[variable]:
            return DEFAULT
        return f"{given.source}, from a {given.how}" if given.how else given.source

    @cached_property
    def doubts(self) -> list[str]:
        """What is probably a mistake, though it has no effect."""
        found = []
        for name in self.environ:
            if name not in self.known and name.startswith(f"{self.project.name.upper()}_"):
                found.append(f"The environment has {name}, which is no setting.{self._near(name)}")
        if self.dotenv.exists() and self.dotenv.stat().st_mode & 0o077:
            found.append(f"Others can read {self.dotenv}: chmod 600 {self.dotenv}")
        return found

    def _dotenv(self) -> dict[str, _Given]:
        if not self.dotenv.exists():
            return {}
        try:
            values = dotenv_values(self.dotenv, interpolate=False, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.dotenv, error) from error
        prefixes = tuple(f"{target.upper()}_" for target in self.project.targets)
        for name in values:
            if name not in self.known and name.startswith(prefixes):
                raise NotReady(
                    f"{name} is no setting.{self._near(name)}",
                    where=str(self.dotenv),
                    hint="runner.py config lists all settings",
                )
        return {
            name: _Given(value, ENV_FILE)
            for name, value in values.items()
            if name in self.known and value is not None
        }

    def _near(self, name: str) -> str:
        near = get_close_matches(name, self.known, 1)
        return f" Did you mean {near[0]}?" if near else ""

    def _toml(self) -> dict[str, _Given]:
        if not self.toml.exists():
            return {}
        try:
            data = tomllib.loads(self.toml.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise _unreadable(self.toml, error) from error
        by_key = {one.key: one for one in self.known.values()}
        found: dict[str, _Given] = {}
        for key, value in _flat(data):
            one, how = by_key.get(key), ""
            for ending in REFERENCES:
                if one is None and key.endswith(f"_{ending}"):
                    one, how = by_key.get(key.removesuffix(f"_{ending}")), ending
            if one is None:
                raise self._unknown(key, by_key)
            if not isinstance(value, str):
                raise self._refused(key, f"is {value!r}, and has to be text.", f'{key} = "…"')
            if one.variable in found:
                raise self._refused(key, f"and {one.key} are given more than once.", "Keep one.")
            if not how and (one.is_secret or one.is_url and has_password(value)):
                raise self._refused(
                    key,
                    f"holds a {'secret' if one.is_secret else 'password'}. This file is no place"
                    " for one.",
                    f"Write {one.variable}=… into {self.dotenv} (chmod 600), or export it, or name"
                    f" where it is: {key}_file or {key}_command",
                )
            found[one.variable] = _Given(self._absolute(one, value, how), SETTINGS_FILE, how)
        return found

    def _absolute(self, one: Setting, value: str, how: str) -> str:
        is_path = how == "file" or (one.is_path and not how)
        return str(self.project.root / Path(value).expanduser()) if is_path and value else value

    def _unknown(self, key: str, by_key: Mapping[str, Setting]) -> NotReady:
        near = get_close_matches(key, by_key, 1)
        return self._refused(
            key,
            "is no setting." + (f" Did you mean {near[0]}?" if near else ""),
            f"Known are {', '.join(by_key)}; each may end in _file or _command.",
        )

    def _refused(self, key: str, why: str, hint: str) -> NotReady:
        return NotReady(f"{key} {why}", where=str(self.toml), hint=hint)

    def _read(self, one: Setting, given: _Given) -> str:
        """Read a value from its file, or run the command that prints it."""
        where = f"{self.toml}, {one.key}_{given.how}"
        if given.how == "file":
            try:
                return Path(given.text).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise NotReady(
                    f"The file with {one.key} can't be read: {error}",
                    where=where,
                    hint=f"Create {given.text}, readable for you only.",
                ) from error
        try:
            done = subprocess.run(
                given.text,
                shell=True,
                cwd=self.project.root,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
            )
            said, code = done.stderr.strip(), done.returncode
        except subprocess.TimeoutExpired:
            said, code = f"it did not end within {COMMAND_SECONDS:.0f} s", -1
        if code or not done.stdout.strip():
            raise NotReady(
                f"The command for {one.key} gave nothing: {said or f'it exited with {code}'}",
                where=where,
                hint=f"Try it: {given.text}",
            )
        return done.stdout.strip()


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _unreadable(path: Path, error: Exception) -> NotReady:
    return NotReady(
        f"{path.name} can't be read: {error}",
        where=str(path),
        hint="docs/connections.md shows what it may hold.",
    )


def _fields(url: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except ProgrammingError:
        return {}


def has_password(url: str) -> bool:
    """Tell whether a URL holds a password, even if it is no valid URL."""
    return bool(_fields(url).get("password")) or bool(_password(url))


def _password(url: str) -> str:
    try:
        parts = urlsplit(url)
        return parts.password or dict(parse_qsl(parts.query)).get("password", "")
    except ValueError:
        return ""


def masked(url: str) -> str:
    """Give a URL without its password; nothing of what is no valid URL, since it may hold one."""
    fields = _fields(url)
    if not fields:
        return "(no PostgreSQL URL)"
    secrets = {name for name in fields if "password" in name}
    if not secrets:
        return url
    shown = {name: "***" if name in secrets else value for name, value in fields.items()}
    return " ".join(f"{name}={value}" for name, value in shown.items())
