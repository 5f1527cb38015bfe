"""Managed servers, where nobody is a superuser: what their roles and parameters are called.

A provider is recognized by a role that only its servers have. One table says what differs; whoever
writes a statement for an operator asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Provider:
    """How a kind of server names its roles, rights and parameters.

    `role` exists only there. `admin` is who may grant. Members of `replicates` may replicate, and
    members of `subscribes` may subscribe, whatever PostgreSQL says. `parameters` are settings that
    have another name and value there; `place` is where settings are changed, empty where ALTER
    SYSTEM does it.
    """

    name: str
    role: str = ""
    admin: str = "a superuser"
    replication: str = "ALTER ROLE {user} REPLICATION;"
    bypass: str = "ALTER ROLE {user} BYPASSRLS;"
    subscription: str = "GRANT pg_create_subscription TO {user};"
    subscription_15: str = "ALTER ROLE {user} SUPERUSER;"
    replicates: str = ""
    subscribes: str = ""
    place: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


SELF_MANAGED = Provider("PostgreSQL")
PROVIDERS = (
    Provider(
        "Amazon RDS or Aurora",
        role="rds_superuser",
        admin="the master user",
        replication="GRANT rds_replication TO {user};",
        subscription_15="GRANT rds_superuser TO {user};",
        replicates="rds_replication",
        subscribes="rds_superuser",
        place="in the DB parameter group (for Aurora: the DB cluster parameter group); then reboot",
        parameters={"wal_level": "rds.logical_replication = 1"},
    ),
    Provider(
        "Google Cloud SQL",
        role="cloudsqlsuperuser",
        admin="the user postgres, or another member of cloudsqlsuperuser",
        subscription_15="GRANT cloudsqlsuperuser TO {user};",
        subscribes="cloudsqlsuperuser",
        place="as flags: gcloud sql instances patch INSTANCE --database-flags=NAME=VALUE,… with all"
        " other flags that are set; it restarts",
        parameters={"wal_level": "cloudsql.logical_decoding = on"},
    ),
    Provider(
        "Azure Database for PostgreSQL",
        role="azure_pg_admin",
        admin="the server's admin user, a member of azure_pg_admin",
        subscription_15="GRANT azure_pg_admin TO {user};",
        subscribes="azure_pg_admin",
        place="under Server parameters in the portal, or: az postgres flexible-server parameter set"
        " --name NAME --value VALUE; then restart",
        parameters={"wal_level": "wal_level = logical"},
    ),
    Provider(
        "Supabase",
        role="supabase_admin",
        admin="the user postgres",
        subscription_15="-- Supabase lets nobody subscribe on PostgreSQL 15: upgrade to 17.",
        place="with its CLI: supabase --experimental --project-ref REF postgres-config update"
        " --config NAME=VALUE",
        parameters={"wal_level": "wal_level is logical there unless somebody has changed it"},
    ),
    Provider(
        "Neon",
        role="neon_superuser",
        admin="a role made in the console, a member of neon_superuser",
        subscription_15="GRANT neon_superuser TO {user};",
        subscribes="neon_superuser",
        place="in the project's settings, or ask its support",
        parameters={"wal_level": "Settings > Logical Replication > Enable"},
    ),
)
FIND = """
    select
        current_setting('server_version_num')::integer,
        format('"%%s"', replace(current_user, '"', '""')),
        (select rolname from pg_catalog.pg_roles where rolname = any(%s) order by rolname limit 1)
"""


@dataclass(frozen=True)
class Dialect:
    """How an operator writes what a login needs on one server."""

    provider: Provider
    version: int
    user: str

    @property
    def replication(self) -> str:
        """The statement that lets the login replicate."""
        return self.provider.replication.format(user=self.user)

    @property
    def subscription(self) -> str:
        """The statement that lets the login subscribe."""
        later = self.version >= 160000
        wanted = self.provider.subscription if later else self.provider.subscription_15
        return wanted.format(user=self.user)

    @property
    def bypass(self) -> str:
        """The statement that shows the login all rows, whatever policies say."""
        return self.provider.bypass.format(user=self.user)

    def setting(self, name: str, value: object) -> str:
        """Write the change of a setting, which needs a restart."""
        if not self.provider.place:
            shown = str(value) if isinstance(value, int) else f"'{value}'"
            return f"ALTER SYSTEM SET {name} = {shown};"
        changed = self.provider.parameters.get(name, f"{name} = {value}")
        return f"-- {self.provider.name}: {changed}, {self.provider.place}."

    def in_words(self, *settings: str, server: str) -> str:
        """Say what `setting` has written, with the restart of a server that people know by name."""
        if self.provider.place:
            return "\n".join(one.removeprefix("-- ") for one in settings)
        return f"{' '.join(settings)} then restart {server}."


def dialect(connection: Connection) -> Dialect:
    """Find out whose server this is, from the roles that it has.

    Args:
        connection: a connection to any database of it.

    Returns:
        How statements for its operator are written.
    """
    row = connection.execute(FIND, ([one.role for one in PROVIDERS],)).fetchone()
    assert row is not None
    version, user, role = row
    provider = next((one for one in PROVIDERS if one.role == role), SELF_MANAGED)
    return Dialect(provider, version, user)
