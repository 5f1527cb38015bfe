"""Why a connection failed, in a person's words, and what to do: known from libpq's message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

NO_DATABASE = "The database does not exist"
NO_CONNECT = "The login may not connect to this database"
PROVISION = "\nTo make the databases of services: runner.py provision"
NO_ANSWER = "The server can't be reached"
# What libpq or the server says, what it means, what to do, and the statement that does it. The
# first that fits counts. `{variable}` names the URL's variable, `{database}` and `{user}` come from
# the URL.
REFUSALS = (
    (
        r"unsupported startup parameter",
        "This is a connection pooler, which does not let a session have its own settings",
        "{server_itself}",
        "",
    ),
    (
        r'role ".*" is not permitted to log in',
        "The login may not log in",
        "As a superuser:\n{sql}",
        'ALTER ROLE "{user}" LOGIN;',
    ),
    (
        r'permission denied for database ".*"|does not have CONNECT privilege',
        NO_CONNECT,
        "As a superuser or as the database's owner, in any database of that server:\n{sql}",
        'GRANT CONNECT ON DATABASE "{database}" TO "{user}";',
    ),
    (
        r'database ".*" is not currently accepting connections',
        "The database takes no connections",
        "As a superuser:\n{sql}",
        'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true;',
    ),
    (
        r'database ".*" does not exist',
        NO_DATABASE,
        "Check the database's name in {variable}." + PROVISION,
        "",
    ),
    (
        r'role ".*" does not exist',
        "The login does not exist",
        "Check the user in {variable}, or as a superuser:\n{sql}",
        'CREATE ROLE "{user}" LOGIN;',
    ),
    (
        r"no password supplied",
        "The server asks for a password, and there is none",
        "Give one in {variable}, or in a file ~/.pgpass that only you can read.",
        "",
    ),
    (
        r"client certificate|sslv3 alert|tlsv1 alert|certificate authentication failed",
        "The server wants a client certificate that it trusts",
        "Add sslcert=/path/to/client.crt&sslkey=/path/to/client.key to {variable}.",
        "",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "The server doesn't allow this login",
        "Add a line for it to its pg_hba.conf. If that has hostssl lines only, add"
        " sslmode=require to {variable}.",
        "",
    ),
    (
        r"password|authentication failed",
        "The login was refused",
        "Check user and password in {variable}. A password may also have expired:\n"
        "SELECT rolname, rolvaliduntil FROM pg_roles;",
        "",
    ),
    (
        r"too many (clients|connections)|connection slots are reserved|connection limit exceeded",
        "The server has no connection left for this login",
        "See who has them:\nSELECT usename, count(*) FROM pg_stat_activity GROUP BY 1;\n"
        "Then end some, or raise max_connections or the login's or the database's CONNECTION"
        " LIMIT.",
        "",
    ),
    (
        r"does not support SSL|SSL support is not compiled in",
        "TLS was asked for, and one of both sides has none",
        "Turn ssl on at the server, or leave sslmode=require out of {variable}.",
        "",
    ),
    (
        r"does not match host name",
        "The server's certificate is for another name",
        "Let {variable} have that name as its host, or sslmode=verify-ca.",
        "",
    ),
    (
        r"root certificate file|root\.crt|certificate verify failed|local issuer|self.signed",
        "Nobody who is known here vouches for the server's certificate",
        "Add sslrootcert=/path/to/ca.crt to {variable}: the certificate of the authority that has"
        " signed the server's, which its administrator has. If it is a public one:"
        " sslrootcert=system.",
        "",
    ),
    (
        r"certificate|SSL error|private key file",
        "The connection can't be encrypted as asked for",
        "Check sslmode, sslrootcert, sslcert and sslkey in {variable}.",
        "",
    ),
    (
        r"terminating connection due to administrator command",
        "The server has ended the connection",
        "Try again in a moment: it restarts, or somebody has ended the session.",
        "",
    ),
    (
        r"the database system is",
        "The server is not ready for connections",
        "Try again in a moment.",
        "",
    ),
    (
        r"failed to resolve host|could not translate host name|Name or service not known",
        "The host's name is unknown here",
        "Check {variable}, and that this machine's name server knows the host.",
        "",
    ),
)
UNREACHABLE = "Check that it runs and that {variable} names its host and port."
SERVER_ITSELF = "Let {variable} name the server itself"
# Hosts and ports of poolers, and where the server itself is then.
POOLERS = (
    (r"\.pooler\.supabase\.com", "db.PROJECT.supabase.co and port 5432"),
    (r"-pooler\.[^/]*neon\.tech", "the host's name without -pooler"),
    (r"\.proxy-[^/]*\.rds\.amazonaws\.com", "the instance's or cluster's own endpoint"),
    (r"postgres\.database\.azure\.com:6432", "the same host and port 5432"),
)


@dataclass(frozen=True)
class Refusal:
    """What happened, the line of libpq's message that says so, what to do, and the statement."""

    what: str
    said: str
    hint: str
    sql: str = ""


def explain(said: str, variable: str, where: Mapping[str, str]) -> Refusal:
    """Say why a connection failed.

    Args:
        said: the whole message of libpq; it may tell of several addresses.
        variable: the environment's variable with the URL.
        where: the URL's `host`, `port`, `dbname` and `user`.

    Returns:
        Why it failed.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no answer"]
    for pattern, what, hint, sql in REFUSALS:
        line = next((one for one in lines if re.search(pattern, one, re.IGNORECASE)), "")
        if line:
            given = {
                "variable": variable,
                "database": where.get("dbname", "").replace('"', '""'),
                "user": where.get("user", "").replace('"', '""'),
                "server_itself": server_itself(variable, where),
            }
            statement = sql.format(**given)
            return Refusal(what, line, hint.format(sql=statement, **given), statement)
    return Refusal(NO_ANSWER, lines[0], UNREACHABLE.format(variable=variable))


def server_itself(variable: str, where: Mapping[str, str]) -> str:
    """Say which URL is wanted instead of a pooler's."""
    place = f"{where.get('host', '')}:{where.get('port', '')}"
    known = [there for pattern, there in POOLERS if re.search(pattern, place)]
    instead = f": {known[0]}." if known else ", by the host and port where PostgreSQL listens."
    return SERVER_ITSELF.format(variable=variable) + instead
