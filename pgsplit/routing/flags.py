"""Feature flags for a gradual rollout: which users' reads go to a service's database already.

`connections/flags.json` has a flag for each service, in the format of flagd, the daemon of the
OpenFeature project (https://flagd.dev/reference/flag-definitions/). Its value is the name of the
variable in `connections/SERVICE.env` that has the URL to read from. A user stays on one side: flagd
hashes the flag's key with the user's id, and a larger share contains all users of a smaller one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pgsplit.base.errors import NotReady
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing.routes import locked, read_text, write

FILE = "flags.json"
SCHEMA = "https://flagd.dev/schema/v0/flags.json"
SERVICE, ROUTED = "service", "routed"


def file(connections: Connections) -> Path:
    """Name the file with the flags of all services."""
    return connections.folder / FILE


def key(service: Service) -> str:
    """Name a service's flag."""
    return f"{service.role}-reads"


def share(service: Service, connections: Connections) -> int:
    """Tell which share of users reads a service's database already.

    Args:
        service: the service.
        connections: the folder with the file.

    Returns:
        Percent of users; 0 if there is no flag.

    Raises:
        NotReady: the file can't be read or understood.
    """
    return _share(_flags(file(connections)).get(key(service)), file(connections))


def set_share(service: Service, connections: Connections, percent: int) -> int:
    """Set which share of users reads a service's database.

    Atomic and idempotent: a reader finds either the old file or the new one. Flags of others in the
    file stay as they are.

    Args:
        service: the service.
        connections: the folder with the file.
        percent: of users, from 0 to 100.

    Returns:
        The share before.

    Raises:
        NotReady: the file can't be read, understood or written.
    """
    path = file(connections)
    with locked(connections):
        document = _document(path)
        flags = document["flags"]
        before = _share(flags.get(key(service)), path)
        flags[key(service)] = _flag(service, percent)
        write(path, json.dumps(document, indent=2) + "\n")
    return before


def remove(service: Service, connections: Connections) -> bool:
    """Remove a service's flag, and tell whether there was one; atomic and idempotent.

    Applications then get the value that they name themselves in case that there is no flag.

    Raises:
        NotReady: the file can't be read, understood or written.
    """
    path = file(connections)
    with locked(connections):
        document = _document(path)
        if document["flags"].pop(key(service), None) is None:
            return False
        write(path, json.dumps(document, indent=2) + "\n")
    return True


def _flag(service: Service, percent: int) -> dict[str, Any]:
    variable = service.role.upper()
    flag: dict[str, Any] = {
        "state": "ENABLED",
        "variants": {SERVICE: f"{variable}_SERVICE_URL", ROUTED: f"{variable}_READ_URL"},
        "defaultVariant": SERVICE if percent == 100 else ROUTED,
    }
    if 0 < percent < 100:
        # The share comes first, so that its users keep their place when it grows.
        flag["targeting"] = {"fractional": [[SERVICE, percent], [ROUTED, 100 - percent]]}
    return flag


def _share(flag: Any, path: Path) -> int:
    if flag is None:
        return 0
    try:
        if "targeting" in flag:
            return int(dict(flag["targeting"]["fractional"])[SERVICE])
        return 100 if flag["defaultVariant"] == SERVICE else 0
    except (KeyError, TypeError, ValueError) as error:
        raise _strange(path, f"a flag that the runner has not written: {flag}") from error


def _flags(path: Path) -> dict[str, Any]:
    flags: dict[str, Any] = _document(path)["flags"]
    return flags


def _document(path: Path) -> dict[str, Any]:
    text = read_text(path)
    if text is None:
        return {"$schema": SCHEMA, "flags": {}}
    try:
        found = json.loads(text)
        if isinstance(found["flags"], dict):
            return dict(found)
    except (ValueError, KeyError, TypeError) as error:
        raise _strange(path, str(error) or "no flags") from error
    raise _strange(path, "flags are no object")


def _strange(path: Path, why: str) -> NotReady:
    return NotReady(
        f"The flags can't be understood: {why}",
        where=str(path),
        hint=f"Move the file away: mv {path} {path}.old\nThen set each service's share again",
    )
