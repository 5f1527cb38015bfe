"""What `runner.py analyze` finds in a monolith, and that it never needs to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from demo.project import MONOLITH, PROJECT, SERVICES
from pgsplit.base.errors import ConnectionFailed, NotReady, SourceMismatch
from pgsplit.load import sample as demo
from pgsplit.observe import analyze
from pgsplit.observe.analyze import Analysis, Finding, Reference, Table
from pgsplit.observe.pages import analysis as analysis_page
from pgsplit.observe.pages import dependencies, ticks
from pgsplit.postgres import embedded
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from tests.support.hazards import INJECTED
from tests.support.split import Split
from tests.support.stage import SAMPLE, Stage

KINDS = {hazard for hazard, *_ in INJECTED}
# What the sample has by nature: two keys that were never validated, and orphans without a key.
NATURAL = {"key was never validated", "rows that refer to nothing"}


def analyzed(split: Split, *arguments: str, **environ: str) -> dict[str, Any]:
    ran = split.runner("analyze", "--json", *arguments, **environ)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def ruined(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str, str]:
    """Analyze a monolith with every hazard: as JSON, as a page, and in the terminal."""

    def ruin() -> dict[str, Any]:
        page = tmp_path_factory.mktemp("ruined") / "page.html"
        split = stage.enter(SAMPLE)
        with split.monolith() as monolith:
            for _, statement, _, _ in INJECTED:
                monolith.execute(statement.encode())
        shown = split.runner("analyze")
        assert shown.returncode == 0, shown.stderr
        found = analyzed(split, "--html", str(page))
        return {"found": found, "page": page.read_text("utf-8"), "shown": shown.stdout}

    once = stage.once("ruined", ruin)
    return once["found"], once["page"], once["shown"]


@pytest.mark.parametrize(
    ("hazard", "where", "mend"),
    [(hazard, where, mend) for hazard, _, where, mend in INJECTED],
    ids=[
        f"{hazard}: {where[:30].isascii()}-{i}" for i, (hazard, _, where, _) in enumerate(INJECTED)
    ],
)
def test_hazard_is_found_with_a_hint(
    ruined: tuple[dict[str, Any], str, str], hazard: str, where: str, mend: str
) -> None:
    found = [one for one in ruined[0]["findings"] if one["hazard"] == hazard]
    (one,) = [one for one in found if where in one["object"] and mend in one["mend"]]
    assert one["severity"] in analyze.SEVERITIES
    assert one["means"].endswith(".") and one["found"]


def test_every_analysis_can_run(ruined: tuple[dict[str, Any], str, str]) -> None:
    assert not {f["hazard"] for f in ruined[0]["findings"]} & {
        "could not be asked",
        "not visible to this login",
    }


def test_page_is_self_contained_and_escapes_unusual_names(
    ruined: tuple[dict[str, Any], str, str],
) -> None:
    page = ruined[1]
    assert_self_contained(page)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "näme &lt;b&gt;" in page
    assert "\x1b" not in page


def test_terminal_shows_unusual_names(
    ruined: tuple[dict[str, Any], str, str],
) -> None:
    shown = ruined[2]
    assert "\x1b" not in shown
    assert "<script>alert('x')</script>" in shown


def assert_self_contained(page: str) -> None:
    assert "<script" not in page.lower()
    assert "http://" not in page and "https://" not in page
    root = ElementTree.fromstring(page)
    assert all(not {"src", "href"} & set(element.attrib) for element in root.iter())
    assert len(list(root.iter("svg"))) > 4


@pytest.mark.slow
def test_healthy_monolith_has_none_of_the_hazards(split: Split, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = analyzed(split, "--html", str(page))
    kinds = {one["hazard"] for one in found["findings"]}
    assert not kinds & (KINDS - NATURAL)
    assert "table that nobody owns" not in page.read_text(encoding="utf-8")
    assert len(found["tables"]) == 18
    assert sum(one["crosses"] for one in found["references"]) == 30
    assert len(found["references"]) == 41
    assert all(one["rows_estimate"] > 0 and one["bytes"] > 0 for one in found["tables"])
    assert_self_contained(page.read_text(encoding="utf-8"))
    with split.monolith() as monolith:
        schemas = monolith.execute("select count(*) from pg_namespace where nspname = 'split'")
        assert schemas.fetchone() == (0,)


@pytest.fixture
def reader(split: Split) -> str:
    """Give the URL of a login that may read the monolith's tables and nothing else."""
    server = split.server
    server.execute("create role reader login password 'secret word' nosuperuser")
    with split.monolith() as monolith:
        monolith.execute("grant connect on database blytz_hire to reader")
        monolith.execute("grant usage on schema blytz_hire to reader")
        monolith.execute("grant select on all tables in schema blytz_hire to reader")
    return with_database(server.tcp, MONOLITH, user="reader", password="secret word")


@pytest.mark.slow
def test_read_only_login_is_enough(split: Split, reader: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = analyzed(split, "--html", str(page), BLYTZ_HIRE_URL=reader)
    mine = analyzed(split)
    others = [one for one in found["findings"] if one["object"] != "sessions of others"]
    assert others == mine["findings"]
    assert "secret" not in page.read_text(encoding="utf-8") + json.dumps(found)


@pytest.mark.slow
def test_objects_hidden_from_the_login_are_reported(split: Split, reader: str) -> None:
    with split.monolith() as monolith:
        monolith.execute("revoke select on blytz_hire.users from reader")
        monolith.execute("alter table blytz_hire.jobs enable row level security")
        found = analyzed(split, BLYTZ_HIRE_URL=reader)
    findings = {(one["hazard"], one["object"]): one for one in found["findings"]}
    hidden = findings["not visible to this login", "blytz_hire.users"]
    assert hidden["mend"] == "GRANT SELECT ON blytz_hire.users TO reader;"
    sessions = findings["not visible to this login", "sessions of others"]
    assert sessions["mend"] == "GRANT pg_read_all_stats TO reader;"
    policy = findings["row-level security", "blytz_hire.jobs"]
    assert policy["severity"] == "blocks" and policy["mend"] == "ALTER ROLE reader BYPASSRLS;"

    with split.monolith() as monolith:
        monolith.execute("revoke select on blytz_hire.jobs from reader")
    found = analyzed(split, BLYTZ_HIRE_URL=reader)
    (both,) = [one for one in found["findings"] if one["object"] == "2 tables"]
    assert both["mend"] == "GRANT SELECT ON blytz_hire.jobs, blytz_hire.users TO reader;"
    with split.monolith() as monolith:
        monolith.execute(both["mend"].encode())
    found = analyzed(split, BLYTZ_HIRE_URL=reader)
    assert not [one for one in found["findings"] if one["found"] == "no SELECT"]


@pytest.mark.slow
def test_analyze_does_not_wait_for_a_locked_table(split: Split) -> None:
    with split.monolith() as monolith, monolith.transaction():
        monolith.execute("lock table blytz_hire.users")
        found = analyzed(split)
    refused = {f["object"]: f for f in found["findings"] if f["hazard"] == "could not be asked"}
    assert "lock timeout" in refused["analyses/orphans.sql"]["found"]
    assert (
        "dbt show --target blytz_hire --select orphans" in refused["analyses/orphans.sql"]["mend"]
    )


@pytest.mark.slow
def test_dbt_can_show_a_single_analysis(split: Split) -> None:
    ran = split.dbt("show", "--target", MONOLITH, "--select", "tables", "--limit", "-1")
    assert ran.returncode == 0, ran.stdout
    assert "portfolio_items" in ran.stdout
    listed = split.dbt("ls", "--target", "payments_db", "--resource-type", "analysis")
    assert "No nodes selected" in listed.stdout


@pytest.mark.slow
def test_server_settings_that_block_the_split_are_found(tmp_path: Path) -> None:
    settings = {"wal_level": "replica", "max_replication_slots": "2", "max_wal_senders": "3"}
    embedded.start(tmp_path, {"fsync": "off", "max_prepared_transactions": "2", **settings})
    try:
        connections = resolve(PROJECT, {"BLYTZ_HIRE_URL": embedded.url(tmp_path, MONOLITH)})
        demo.create(PROJECT, connections.urls[MONOLITH], 500)
        with connections.connect(MONOLITH) as monolith:
            monolith.execute("begin")
            monolith.execute("select pg_current_xact_id()")
            monolith.execute("prepare transaction 'left behind'")
            found = analyze.analyze(connections)
    finally:
        embedded.wipe(tmp_path)
    findings = {one.hazard: one for one in found.findings if one.severity == "blocks"}
    assert findings["wal_level"].mend.startswith("ALTER SYSTEM SET wal_level = 'logical'")
    assert "max_replication_slots = 10" in findings["replication slots"].mend
    assert "max_wal_senders = 10" in findings["WAL senders"].mend
    assert "ROLLBACK PREPARED 'left behind';" in findings["prepared transaction"].mend


@pytest.mark.slow
def test_old_transaction_is_found(split: Split) -> None:
    with split.monolith() as monolith, monolith.transaction():
        monolith.execute("select 1")
        show = ("show", "--target", MONOLITH, "--select", "server_hazards", "--limit", "-1")
        old = split.dbt(*show, "--vars", "old_after: 0 seconds", "--output", "json")
        assert f"SELECT pg_terminate_backend({monolith.info.backend_pid})" in old.stdout
        young = split.dbt(*show, "--output", "json")
    assert "pg_terminate_backend" not in young.stdout


def test_analyze_reports_why_it_cannot_run_with_a_hint(split: Split, tmp_path: Path) -> None:
    missing = split.runner("analyze", "--html", str(tmp_path / "no" / "page.html"))
    assert missing.returncode == NotReady.exit_code
    assert "there is no folder" in missing.stderr and "Name a file" in missing.stderr
    folder = split.runner("analyze", "--html", str(tmp_path))
    assert folder.returncode == NotReady.exit_code and "it is a folder" in folder.stderr
    nowhere = split.runner("analyze", BLYTZ_HIRE_URL="postgresql://x@127.0.0.1:1/blytz_hire")
    assert nowhere.returncode == ConnectionFailed.exit_code
    with split.monolith() as monolith:
        monolith.execute("alter schema blytz_hire rename to elsewhere")
    empty = split.runner("analyze")
    assert empty.returncode == SourceMismatch.exit_code
    assert "There is no schema blytz_hire" in empty.stderr
    assert "Check BLYTZ_HIRE_URL" in empty.stderr


def test_analysis_cannot_write_to_the_monolith(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = "delete from blytz_hire.users returning 'note' as severity"
    names = ("tables", "references", *analyze.HAZARDS)
    monkeypatch.setattr(analyze, "_compile", lambda connections: dict.fromkeys(names, writing))
    found = analyze.analyze(split.connections)
    assert {one.found for one in found.findings} == {
        "cannot execute DELETE in a read-only transaction"
    }


def test_dependency_picture_does_not_depend_on_input_order() -> None:
    tables = [Table(name, owner, True, 1, 1) for name, owner in PLACES.items()]
    references = [_reference("payments", "users"), _reference("payments", "jobs", None)]
    one = dependencies.draw(tables, references, SERVICES)
    other = dependencies.draw(tables[::-1], references[::-1], SERVICES)
    assert one == other
    assert [box.title for box in one.boxes] != []
    spans = sorted((box.y, box.y + box.height) for box in one.boxes)
    assert all(a[1] < b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert {curve.declared for curve in one.curves} == {True, False}


PLACES = {"users": "users_db", "payments": "payments_db", "jobs": "marketplace_db"}


def _reference(table: str, target: str, key: str | None = "key") -> Reference:
    return Reference(
        table, f"{target}Id", target, "id", PLACES[table], PLACES[target], True, key,
        True, False, "restrict", "cascade", None,
    )  # fmt: skip


def test_empty_monolith_has_a_page_too() -> None:
    nothing = Analysis("database", "18", analyze.datetime.now(), [], [], [])
    assert "Nothing was found." in analysis_page.page(nothing, SERVICES)


def test_findings_with_the_same_meaning_are_grouped() -> None:
    first, second = (Finding("note", "a", name, "", "same", "") for name in "xy")
    other = Finding("note", "a", "z", "", "other", "")
    assert [len(one.findings) for one in analyze.grouped([first, other, second])] == [2, 1]


@pytest.mark.parametrize(
    ("span", "first", "second"),
    [(0.5, "0.0 s", "0.1 s"), (40, "0 s", "5 s"), (200, "0 s", "30 s"), (7000, "0 min", "15 min")],
)
def test_scale_has_round_marks(span: float, first: str, second: str) -> None:
    marks = ticks(100.0, 100.0 + span)
    assert [said for _, said in marks[:2]] == [first, second]
    assert all(100.0 <= at <= 100.0 + span + 1e-9 for at, _ in marks)
    assert len(marks) <= 9


@pytest.mark.slow
def test_percent_sign_in_a_table_name_is_harmless(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute(b'create table blytz_hire."100%s" (id text)')
    found = analyzed(split)
    assert 'blytz_hire."100%s"' in {one["object"] for one in found["findings"]}


@pytest.mark.slow
def test_what_this_project_made_is_no_finding(switched: Split) -> None:
    """Neither a switched service's fence, nor the tables that a completion retires."""

    def found() -> set[tuple[str, str]]:
        return {(one["hazard"], one["object"]) for one in analyzed(switched)["findings"]}

    def is_ours(hazard: str, name: str) -> bool:
        return hazard in {"trigger", "rule", "table is missing", "event trigger"} or "split" in name

    assert not [one for one in found() if is_ours(*one)]
    with switched.monolith() as monolith:
        monolith.execute(
            "create function public.touch() returns trigger language plpgsql as"
            " 'begin return new; end'; create trigger touch before update on blytz_hire.payments"
            " for each row execute function public.touch()"
        )
    assert ("trigger", "touch on blytz_hire.payments") in found()
    with switched.monolith() as monolith:
        monolith.execute("drop function public.touch() cascade")
    done = switched.runner("complete", "payments", "--no-backup")
    assert done.returncode == 0, done.stderr
    assert not [one for one in found() if is_ours(*one)]
