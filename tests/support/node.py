"""Prisma's own client, generated and run by Node: the packages, and a folder for an application.

The packages come from the npm registry, at the versions of tests/prisma/package-lock.json, once a
machine. Prisma's schema engine is no package but a download from elsewhere; validating and
generating don't use it, and its place is taken by a program that does nothing. Prisma Migrate
takes the one that is in the package as WebAssembly.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.project import ROOT
from tests.support.run_folder import VARIABLE

SOURCE = ROOT / "tests" / "prisma"
MIGRATE = SOURCE / "migrate"
SCHEMA = SOURCE / "monolith.prisma"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgsplit-tests"
OLDEST = (20, 19)
QUIET = {
    "PRISMA_SCHEMA_ENGINE_BINARY": shutil.which("true") or "/bin/true",
    "PRISMA_QUERY_ENGINE_LIBRARY": shutil.which("true") or "/bin/true",
    "CHECKPOINT_DISABLE": "1",
    "PRISMA_HIDE_UPDATE_MESSAGE": "1",
    "NO_COLOR": "1",
}


@dataclass(frozen=True)
class Application:
    """A folder with the tests' scripts, Prisma's packages, and the clients made from schemas."""

    home: Path

    def prisma(self, command: str, schema: Path) -> subprocess.CompletedProcess[str]:
        """Run `prisma validate` or `prisma generate` on a schema of this folder."""
        return self._run("node_modules/prisma/build/index.js", command, "--schema", str(schema))

    def compile(self, *files: Path) -> subprocess.CompletedProcess[str]:
        """Type-check files as strictly as TypeScript can."""
        options = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022")
        modules = ("--module", "esnext", "--moduleResolution", "bundler")
        program = "node_modules/typescript/bin/tsc"
        return self._run(program, *options, *modules, *map(str, files))

    def generate(self, schema: Path) -> None:
        """Make the client of a schema; another test of the run may have made the same already."""
        text = schema.read_text("utf-8")
        found = re.search(r'output\s+= "(.*)"', text)
        assert found, text
        output, kept = self.home / found[1], Path(os.environ[VARIABLE]) / "prisma-clients"
        kept.mkdir(exist_ok=True)
        client = kept / hashlib.sha256(text.encode()).hexdigest()
        with (kept / "lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not client.exists():
                made = self.prisma("generate", schema)
                assert made.returncode == 0, made.stdout + made.stderr
                shutil.copytree(output, client)
                return
        shutil.copytree(client, output)

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start one of the scripts, with pipes to its input and output."""
        return subprocess.Popen(
            ["node", script, *arguments],
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", *arguments],
            cwd=self.home,
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
        )


def application(home: Path) -> Application:
    """Make an application's folder; skip the test where Node or its packages can't be had."""
    packages = _packages(SOURCE)
    home.mkdir()
    for file in SOURCE.glob("*.*s*"):
        shutil.copy(file, home)
    (home / "node_modules").symlink_to(packages)
    shutil.copy(SCHEMA, home)
    return Application(home)


def migrate(home: Path, url: str, *arguments: str) -> str:
    """Run `prisma migrate` on a folder with `prisma/schema.prisma`; give what it says.

    Skips the test where Node or Prisma's packages can't be had.
    """
    packages = _packages(MIGRATE)
    if not (home / "node_modules").exists():
        (home / "node_modules").symlink_to(packages)
        shutil.copy(MIGRATE / "package.json", home)
        shutil.copy(MIGRATE / "prisma.config.mjs", home)
    done = subprocess.run(
        ["node", "node_modules/prisma/build/index.js", "migrate", *arguments],
        cwd=home,
        env={**os.environ, **QUIET, "DATABASE_URL": url, "PAYMENTS_WRITE_URL": url},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _packages(source: Path) -> Path:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node is not installed; apt-get install nodejs npm")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    assert found, said
    if (int(found[1]), int(found[2])) < OLDEST:
        pytest.skip(f"Prisma 7 needs Node 20.19 or later; this is {said.strip()}")
    lock = (source / "package-lock.json").read_bytes()
    place = CACHE / f"prisma-{hashlib.sha256(lock).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not place.exists():
            _install(source, place)
    return place / "node_modules"


def _install(source: Path, place: Path) -> None:
    """Install the packages; the folder gets its name only when it is complete."""
    draft = Path(tempfile.mkdtemp(dir=CACHE))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, draft)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = subprocess.run(command, cwd=draft, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(draft)
        if "CI" in os.environ:
            raise AssertionError(done.stderr)
        pytest.skip(f"npm can't install Prisma: {done.stderr.strip().splitlines()[:1]}")
    draft.rename(place)
