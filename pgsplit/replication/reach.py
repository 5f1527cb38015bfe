"""Whether the server that follows can log in to the one that it follows; asked from there.

The runner's own connection tells nothing about that: it may have another network, a password file
or a certificate, which a server does not have.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsplit.postgres import rights
from pgsplit.postgres.quiet import FAILURES, unquiet
from pgsplit.project.endpoints import Connections
from pgsplit.replication import login
from pgsplit.replication.slot import Connection
from pgsplit.replication.subscription import try_to_connect

if TYPE_CHECKING:
    from pgsplit.replication.stream import BaseStream

# Files of this machine that a URL may name, and that another server doesn't have.
FILES = {
    "sslcert": "a client certificate (sslcert)",
    "sslkey": "a client key (sslkey)",
    "sslrootcert": "a certificate authority (sslrootcert)",
    "sslcrl": "a revocation list (sslcrl)",
    "passfile": "a password file (passfile)",
}
ON_EVERY_HOST = ("", "system")
# What a source says to a login that is still to be made, if it would let it in. Others than
# superusers have to be asked for a password.
ANSWERS = ("password authentication failed for user",)
ANSWERS_TO_SUPERUSERS = (*ANSWERS, "does not exist")


def require_reachable(stream: BaseStream, connections: Connections) -> None:
    """Check that a stream's target can log in to its source; changes nothing.

    Args:
        stream: a stream, there or not.
        connections: where its source is, as the target's server reaches it.

    Raises:
        NotReady: it can't; the message says what is only on this machine, if that is why.
        TargetOccupied: somebody else has made a role with the stream's name.
    """
    source, service = stream.source, stream.service
    if login.mark(source, stream.name) not in (None, (service.mark,)):
        raise login.occupied(source, stream.name, service)
    said = cannot_reach(stream.target, source, stream.name, stream.source_name, connections)
    if said:
        raise stream.unreachable(said, connections.for_servers(stream.source_name))


def cannot_reach(
    target: Connection,
    source: Connection,
    name: str,
    source_name: str,
    connections: Connections,
    url: str = "",
) -> str:
    """Let a server log in to another one as a stream that is still to be made would.

    First with the login that the stream would get, and a wrong password, whether or not it is
    there: a server that asks it for a password lets it in with the right one. Then with the login
    that the stream gets otherwise. If a statement that fails would be logged, that has a wrong
    password first, and the right one only if the runner has not logged in with it already.

    Args:
        target: a connection to a database of the server that is to subscribe.
        source: a connection to a database of the server that is to publish.
        name: the stream's name.
        source_name: the source's target name, by which its URL is known.
        connections: where the source is, as the target's server reaches it.
        url: another database of the source's server, if its own does not exist yet.

    Returns:
        Why it can't; nothing if it can.
    """
    url = url or connections.for_servers(source_name)
    if login.is_secret(source, source_name, connections) and login.may_make(source):
        answers = ANSWERS_TO_SUPERUSERS if rights.is_superuser(target) else ANSWERS
        said = try_to_connect(target, login.with_login(url, name, secrets.token_urlsafe(24)))
        if not said or any(answer in said for answer in answers):
            return ""
    said = ""
    if conninfo_to_dict(url).get("password") and FAILURES in unquiet(target):
        said = try_to_connect(target, make_conninfo(url, password=secrets.token_urlsafe(24)))
        is_asked = any(answer in said for answer in ANSWERS)
        if not said or is_asked and _is_runners_own(url, connections.urls[source_name]):
            return ""
        said = "" if is_asked else said
    said = said or try_to_connect(target, url)
    why = only_here(source, source_name, connections) if said else ""
    return f"{said}\n{why}" if why else said


def _is_runners_own(url: str, own: str) -> bool:
    """Tell whether a URL logs in as the runner does, with the same password."""
    fields, known = conninfo_to_dict(url), conninfo_to_dict(own)
    return all(fields.get(key) == known.get(key) for key in ("user", "password"))


def only_here(source: Connection, source_name: str, connections: Connections) -> str:
    """Say what the runner's login in a source needs that only this machine has, if anything.

    Args:
        source: a connection to it, by its `…_URL`.
        source_name: its target name.
        connections: where it is.
    """
    if connections.is_for_servers(source_name):
        return ""
    variable = connections.project.variable("URL", source_name)
    fields = conninfo_to_dict(connections.urls[source_name])
    found = [what for key, what in FILES.items() if str(fields.get(key) or "") not in ON_EVERY_HOST]
    if source.pgconn.used_password and not fields.get("password"):
        found.append("a password from a file or the environment (.pgpass, PGPASSWORD)")
    if not found:
        return ""
    return f"{variable} uses {' and '.join(found)}, which that server does not have."
