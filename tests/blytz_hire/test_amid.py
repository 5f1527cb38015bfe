"""A migration amid a switch: the switch is undone and says why, or stands; no write is lost."""

from __future__ import annotations

import pytest

from pgsplit.base.errors import BuildFailed, NotReady
from tests.blytz_hire.test_own_tables import migrate
from tests.blytz_hire.test_switch import running
from tests.support.split import Split
from tests.support.switching import Writer, assert_agreed, halted, ran

OF_MONOLITH = 'alter table blytz_hire.payments rename column "milestoneId" to milestone'
OF_SERVICE = "alter table payments_db.payments rename column milestone_id to milestone"
BACK = {
    OF_MONOLITH: 'alter table blytz_hire.payments rename column milestone to "milestoneId"',
    OF_SERVICE: "alter table payments_db.payments rename column milestone to milestone_id",
}
UNDONE = "The switch was undone: everything is as it was before."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "statement", "ends", "told"),
    [
        (
            "switch: catch up",
            OF_MONOLITH,
            {NotReady.exit_code: "verified"},
            ['"blytz_hire.payments" is missing replicated column: "milestone"'],
        ),
        (
            "switch: drain",
            OF_MONOLITH,
            {0: "switched"},
            ['"blytz_hire.payments" is missing replicated column: "milestoneId"'],
        ),
        (
            "switch: drain",
            OF_SERVICE,
            # It stands if no write of the last moment had to be applied to the table.
            {BuildFailed.exit_code: "verified", 0: "switched"},
            [
                "payments_db.payments.milestone_id is gone; perhaps it is milestone now",
                f"hint: {BACK[OF_SERVICE]};",
            ],
        ),
    ],
    ids=["catch up", "drain, monolith", "drain, service"],
)
def test_migration_amid_a_switch_loses_no_write(
    verified: Split, step: str, statement: str, ends: dict[int, str], told: list[str]
) -> None:
    def change(sql: str) -> None:
        if statement is OF_SERVICE:
            migrate(verified, "payments_db", sql)
        else:
            with verified.monolith() as monolith:
                monolith.execute(sql)

    with Writer(verified, "amid") as writer:
        command = ("switch", "payments", "--no-backup", "--max-pause", "5s")
        with halted(verified, step) as halt, running(verified, *command) as result:
            halt.wait()
            change(statement)
            halt.release()
            code, said = result()
        assert code in ends, said
        stands = ends[code]
        assert not [one for one in told if one not in said], said
        assert (UNDONE in said) == (stands == "verified"), said
        assert assert_agreed(verified) == stands
        change(BACK[statement])
    if (statement, stands) == (OF_MONOLITH, "verified"):  # what was written meanwhile can't come
        ran(verified, "land", "payments", "--recopy")
        ran(verified, "build", "payments", "--json")
    writer.assert_nothing_lost()
