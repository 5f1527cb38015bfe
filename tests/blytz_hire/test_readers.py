"""Who still reads the tables that a completion retires."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from demo.project import MONOLITH
from pgsplit.cutover.readers import still_reading
from tests.support.split import Split
from tests.support.switching import ran

WARNING = "Somebody still reads the monolith's tables: in 2.5 seconds"


@contextmanager
def reader(split: Split, query: str, name: str) -> Iterator[None]:
    """Read all the time, by short queries."""
    over = threading.Event()
    url = split.connections.urls[MONOLITH]

    def read() -> None:
        with (
            psycopg.connect(url, autocommit=True, application_name=name) as connection,
            suppress(psycopg.errors.UndefinedTable),  # what the warning foretells
        ):
            while not over.wait(0.02):
                connection.execute(query.encode()).fetchall()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_completion_says_who_still_reads_its_tables(switched: Split) -> None:
    query = "select id from blytz_hire.payments where id = 'x'"
    with reader(switched, query, "billing \x1b[31m job"):
        shown = switched.runner("complete", "payments", "--dry-run")
    said = " ".join((shown.stdout + shown.stderr).split())
    assert WARNING in said
    assert "blytz_hire.payments (" in said and "blytz_hire.reviews (" not in said
    assert "Seen: billing" in said and "of postgres from this machine" in said
    assert "\x1b" not in said
    quiet = switched.runner("complete", "payments", "--dry-run")
    assert quiet.returncode == 0 and "still reads" not in quiet.stdout + quiet.stderr
    with reader(switched, query, "billing"):
        done = switched.runner("complete", "payments", "--no-backup", "--json")
        assert done.returncode == 0, done.stderr
    assert any(
        WARNING in one for one in json.loads(done.stdout)["services"]["payments_db"]["warnings"]
    )


def test_reader_through_a_view_is_counted(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute("create view public.paid as select count(*) from blytz_hire.payments")
        with reader(split, "select * from public.paid", "reports"):
            (said,) = still_reading(monolith, "blytz_hire", ["payments", "reviews"])
        assert WARNING in said and "Seen" not in said


def test_replications_own_look_ups_are_no_reads(switched: Split) -> None:
    with switched.service("payments_db") as service, switched.monolith() as monolith:
        service.execute("update payments_db.reviews set comment = 'again'")
        ran(switched, "sync", "payments")
        assert still_reading(monolith, "blytz_hire", ["payments", "reviews"]) == []
