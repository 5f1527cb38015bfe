"""Between switch and completion a changed model is taken up, if a rollback can carry it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgsplit.base.errors import BuildFailed
from tests.blytz_hire.test_own_changes import change, found
from tests.support.altered import Altered, altered
from tests.support.split import Split
from tests.support.switching import NEW_PAYMENT, Side, as_service, move, one, ran, words

MODEL, YML = "models/payments_db/payments.sql", "models/payments_db/payments.yml"
REVERSE = "models/payments_db/reverse/monolith_payments.sql"


@pytest.fixture
def project(switched: Split, tmp_path: Path) -> Altered:
    """Give a copy of the project, with payments switched."""
    return altered(switched, tmp_path)


def replace(project: Altered, path: str, was: str, becomes: str) -> None:
    """Replace a part of a file of the project."""
    text = (project.root / path).read_text("utf-8")
    assert was in text
    project.write(path, text.replace(was, becomes, 1))


def add_note(project: Altered, made_from: str) -> None:
    """Add a column `note` to the model of payments and to its contract."""
    replace(project, MODEL, "        status,\n", f"        status,\n        {made_from} as note,\n")
    column = "      - {name: note, description: What the service noted., data_type: text}\n"
    replace(project, YML, "      - name: processed_at\n", f"{column}      - name: processed_at\n")
    project.own("payments,id,payments_db,payments,note,,the service's own")


def built(project: Altered, code: int = 0) -> str:
    """Build payments with the copy of the project; give what it said."""
    done = project.run("build", "payments")
    assert done.returncode == code, done.stdout + done.stderr
    return words(done.stdout + done.stderr)


def test_column_is_taken_up_once_the_table_has_it(project: Altered) -> None:
    """It stays behind in a rollback, and is quarantined, as what the monolith has no room for."""
    split = project.split
    add_note(project, "null::text")
    said = built(project, BuildFailed.exit_code)
    assert "does not have the shape that" in said
    assert "models/payments_db/payments.yml has now. Nothing was changed." in said
    fix = "alter table payments_db.payments add column note text;"
    assert fix in said
    change(split, fix)
    assert any("note is the service's own" in note for note in found(split)["notes"])
    built(project)
    assert not any("note" in note for note in found(split)["notes"])
    assert found(split)["warnings"] == []
    with as_service(split) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
        service.execute("update payments_db.payments set note = 'x' where id = 'own'")
    ran(split, "sync", "payments")
    built(project)  # nothing left to take up
    with split.monolith() as monolith:
        assert one(monolith, "select count(*) from blytz_hire.payments where id = 'own'") == 1
    assert "can't hold" in move(split, "rollback")
    done = project.run("verify", "payments")
    assert done.returncode == 0, done.stdout + done.stderr


def test_column_that_goes_back_is_carried_both_ways(project: Altered) -> None:
    split = project.split
    change(
        split,
        "alter table payments_db.payments add column note text",
        "update payments_db.payments set note = metadata ->> 'note' where metadata ? 'note'",
    )
    add_note(project, "metadata ->> 'note'")
    replace(
        project,
        REVERSE,
        "{{ json_with_text('with_refund', 'disputeReason', 'dispute_reason') }} as with_reasons",
        '{{ json_with_text("(case when note is null then with_refund else'
        " coalesce(with_refund, '{}') || jsonb_build_object('note', note) end)\","
        " 'disputeReason', 'dispute_reason') }} as with_reasons",
    )
    built(project)
    with as_service(split) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
        service.execute("update payments_db.payments set note = 'x' where id = 'own'")
    ran(split, "sync", "payments")
    with split.monolith() as monolith:
        value = "select metadata ->> 'note' from blytz_hire.payments where id = 'own'"
        assert one(monolith, value) == "x"
    move(split, "rollback")
    with split.monolith() as monolith:
        monolith.execute(
            "update blytz_hire.payments set metadata = '{\"note\": \"y\"}' where id = 'own'"
        )
    done = project.run("verify", "payments")
    assert done.returncode == 0, done.stdout + done.stderr
    with split.service("payments_db") as database:
        assert one(database, "select note from payments_db.payments where id = 'own'") == "y"


def test_change_that_a_rollback_could_not_carry_is_refused(project: Altered) -> None:
    """Nothing is changed by it: the old model goes on."""
    split = project.split
    change(
        split,
        "alter table payments_db.payments add column note text",
        "alter table payments_db.payments add column must text not null default 'x'",
        "alter table payments_db.payments alter column must drop default",
    )
    add_note(project, "null::text")
    said = built(project, BuildFailed.exit_code)
    assert (
        "A rollback could not carry payments as its model has it now. Nothing was changed." in said
    )
    assert "column payments_db.payments.must is the service's own, not null" in said
    assert "alter table payments_db.payments alter column must drop not null;" in said
    assert any("note is the service's own" in note for note in found(split)["notes"])
    change(split, "alter table payments_db.payments drop column must")
    replace(project, YML, "data_type: text}\n", "data_type: integer}\n")
    replace(project, MODEL, "null::text as note", "null::integer as note")
    said = built(project, BuildFailed.exit_code)
    fix = "alter table payments_db.payments alter column note type integer using note::integer;"
    assert fix in said
    change(split, fix)
    built(project)
