"""One runner at a time, and nobody else can keep it from its work."""

from __future__ import annotations

import getpass
import os
import socket

import psycopg
import pytest

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from pgsplit.state.ledger import open_ledger
from tests.support.servers import PASSWORD
from tests.support.split import Split

SNAPSHOTS = """
    select backend_xid is null and backend_xmin is null from pg_stat_activity
    where state = 'idle in transaction' and datname = current_database()
"""


def test_runner_at_work_is_named(split: Split) -> None:
    with (
        open_ledger(split.connections),
        pytest.raises(NotReady) as caught,
        open_ledger(split.connections),
    ):
        pass
    what = caught.value.what
    assert f"monolith: {getpass.getuser()} runs `" in what
    assert f"on {socket.gethostname()}, process {os.getpid()}, since " in what
    assert "select pg_terminate_backend(" in caught.value.hint


def test_runner_holds_back_neither_vacuum_nor_slots(split: Split) -> None:
    with open_ledger(split.connections), split.monolith() as monolith:
        assert monolith.execute(SNAPSHOTS).fetchall() == [(True,)]


def test_others_can_not_take_the_lock(landed: Split) -> None:
    """The database's owner, the service's login and a role that may only connect."""
    landed.server.execute(f"create role stranger login password '{PASSWORD}'")
    landed.server.execute("grant connect on database blytz_hire to stranger, payments_service")
    landed.server.execute("alter database blytz_hire owner to stranger")
    for role in ("stranger", "payments_service"):
        landed.server.execute(f"alter role {role} password '{PASSWORD}'")
        url = with_database(landed.server.tcp, "blytz_hire", user=role)
        with psycopg.connect(url, autocommit=True) as other:
            # All that anybody can take: the lock that runners had before, and locks of their own.
            other.execute("select pg_advisory_lock(hashtext('blytz_hire.runner'), 1)")
            other.execute("select pg_advisory_lock(hashtext('split.prepare'))")
            other.execute("begin; lock table pg_catalog.pg_class in access share mode")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("lock table split.runner in access share mode")
            assert landed.runner("build", "payments").returncode == 0


def test_nobody_else_may_change_the_schema_split(switched: Split) -> None:
    rights = """
        select entry.grantee, entry.privilege_type, relation.relname
        from pg_class as relation, aclexplode(relation.relacl) as entry
        where
            relation.relnamespace = 'split'::regnamespace and entry.grantee <> relation.relowner
            and (entry.grantee = 0 or entry.privilege_type <> 'SELECT')
        union all
        select entry.grantee, entry.privilege_type, 'schema'
        from pg_namespace as schema, aclexplode(schema.nspacl) as entry
        where
            schema.nspname = 'split' and entry.grantee <> schema.nspowner
            and (entry.grantee = 0 or entry.privilege_type <> 'USAGE')
    """
    for connection in (switched.monolith(), switched.service("payments_db")):
        with connection:
            assert connection.execute(rights).fetchall() == []


def test_lock_that_is_no_runner_s_is_named_too(landed: Split) -> None:
    with landed.monolith() as holder:
        holder.execute("begin; lock table split.runner in exclusive mode")
        said = "postgres has locked split.runner since "
        with pytest.raises(NotReady, match=said), open_ledger(landed.connections):
            pass


def test_runner_whose_lock_is_lost_stops(landed: Split) -> None:
    with open_ledger(landed.connections) as ledger:
        pid = ledger.holder.info.backend_pid
        ledger.connection.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        service = landed.connections.project.services["payments_db"]
        with pytest.raises(psycopg.OperationalError), ledger.step(service, "nothing"):
            pass


def test_upgrade_waits_for_a_runner_of_an_older_version(landed: Split) -> None:
    """But not for a stranger, who can take its lock too."""
    landed.server.execute(f"create role stranger login password '{PASSWORD}'")
    landed.server.execute("grant connect on database blytz_hire to stranger")
    with landed.monolith() as monolith:
        monolith.execute("drop table split.runner; update split.version set version = 1")
        url = with_database(landed.server.tcp, "blytz_hire", user="stranger")
        lock = "select pg_advisory_lock(hashtext('blytz_hire.runner'), 1)"
        monolith.execute(lock)
        said = "postgres runs one of an older version since "
        with pytest.raises(NotReady, match=said), open_ledger(landed.connections):
            pass
        monolith.execute("select pg_advisory_unlock_all()")
        with psycopg.connect(url, autocommit=True) as stranger:
            stranger.execute(lock)
            with open_ledger(landed.connections) as ledger:
                assert ledger.connection.execute("table split.runner").rowcount == 1
