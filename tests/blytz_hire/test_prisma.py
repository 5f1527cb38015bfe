"""A service's schema.prisma, and what an application sees while its service moves.

With Node, the schema goes to Prisma itself, and a real client made of it reads and writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from demo.project import MONOLITH, ROOT, SERVICES
from pgsplit.postgres.connect import with_database
from pgsplit.routing import env_file
from tests.blytz_hire.test_targets import PGBOUNCER, Bouncer, own
from tests.support.node import SCHEMA, Application, application
from tests.support.run_folder import short_folder
from tests.support.servers import free_port
from tests.support.split import Split
from tests.support.switching import PAYMENTS, halted, move, ran
from tests.support.waiting import until

PAGE = ROOT / "docs" / "moving-an-application.md"
MADE = ("prisma", "payments", "--from", str(SCHEMA))


def schema(split: Split, *arguments: str) -> str:
    done = split.runner(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def block(text: str, head: str) -> list[str]:
    """Give a block's lines with single spaces."""
    found = re.search(rf"^{head} {{\n(.*?)^}}$", text, re.DOTALL | re.MULTILINE)
    assert found, text
    return [" ".join(line.split()) for line in found[1].splitlines() if line.strip()]


def changes(split: Split, *arguments: str) -> dict[str, list[str]]:
    """Give what a schema lists as changed, by where."""
    found: dict[str, list[str]] = {}
    for one in json.loads(schema(split, *arguments, "--json"))["changes"]:
        found.setdefault(one["where"], []).append(f"{one['kind']}: {one['what']}")
    return found


# What the schema says


def test_code_keeps_the_names_that_it_has_for_the_monolith(verified: Split) -> None:
    text = schema(verified, *MADE)
    payment = block(text, "model Payment")
    assert 'id String @id(map: "payments_pkey") @default(cuid())' in payment
    assert 'userId String @map("sender_id")' in payment
    assert (
        'stripeIntent String @unique(map: "payments_stripe_payment_intent_id_key")'
        ' @map("stripe_payment_intent_id")'
    ) in payment
    assert 'updatedAt DateTime @updatedAt @map("updated_at")' in payment
    assert 'createdAt DateTime @default(now()) @map("created_at")' in payment
    assert 'type String @default("payment")' in payment
    assert (
        "user User @relation(fields: [userId], references: [id], onDelete: NoAction,"
        " onUpdate: NoAction)"
    ) in payment
    assert '@@map("payments")' in payment and '@@schema("payments_db")' in payment
    assert "payments Payment[]" in block(text, "model User")
    assert block(text, "generator client") == [
        'provider = "prisma-client-js"',
        'output = "./generated/payments"',
    ]
    assert 'schemas = ["payments_db"]' in block(text, "datasource db")


def test_a_value_that_changed_loses_its_old_name(verified: Split) -> None:
    """Code that writes cents must not compile where units are meant."""
    text = schema(verified, *MADE)
    payment = block(text, "model Payment")
    assert 'amountNew Decimal @map("amount") @db.Decimal' in payment
    assert not [one for one in payment if re.match(r"(amount|stripeFee|refundedAt) ", one)]
    found = changes(verified, *MADE)
    assert found["Payment.amount"] == [
        "value: Payment.amountNew (Decimal), units, not cents; Payment.currency (String),"
        " always USD"
    ]
    assert found["Payment.refundAmount"] == ["table: Refund.amount (Decimal?), units, not cents"]
    assert found["Payment.refundedAt"] == ["table: Refund.refundedAt (DateTime?)"]
    assert found["Payment.amountNew"] == ["new: a create has to give it"]
    assert found["Payment"][0].startswith("check: a write must keep amount = round(amount, 2);")
    assert found["Payment.contract"] == ["relation: Contract is not in this database"]
    assert found["Contract, Invoice, Milestone, Timesheet"] == [
        "elsewhere: in the database of contracts"
    ]
    (user,) = found["User"]
    assert user.startswith("read only: a copy that users writes; read only. Not here: emailVerified,")
    assert user.endswith("A deleted row stays, with deletedAt set: ask for { deletedAt: null }")
    assert found["Payment.user"] == [
        "relation: no foreign key guards it: a User may be missing, and can't be written"
    ]


def test_changes_stand_in_the_file_and_beside_it(verified: Split, tmp_path: Path) -> None:
    done = verified.runner(*MADE)
    assert "// - Payment.stripeFee: Payment.stripeFeeNew (Decimal?), units, not cents" in done.stdout
    assert "  Payment.stripeFee: Payment.stripeFeeNew (Decimal?), units, not cents\n" in done.stderr
    done = verified.runner(*MADE, "--output", str(tmp_path / "p.prisma"))
    assert "5 models" in done.stdout or "6 models" in done.stdout
    assert "  Payment.stripeFee: Payment.stripeFeeNew (Decimal?), units, not cents\n" in done.stdout
    assert (tmp_path / "p.prisma").read_text() == schema(verified, *MADE)


def test_without_the_present_schema_names_follow_from_columns(verified: Split) -> None:
    text = schema(verified, "prisma", "payments")
    payment = block(text, "model Payment")
    assert 'id String @id(map: "payments_pkey")' in payment
    assert 'userId String @map("sender_id")' in payment
    assert 'updatedAt DateTime @map("updated_at")' in payment
    assert "// Without --from nobody knows what the application's client fills in" in text
    assert "dispute Dispute?" in payment and "refund Refund?" in payment
    assert [one for one in block(text, "model Dispute") if one.startswith("payment Payment @rel")]
    assert block(text, "generator client")[0] == 'provider = "prisma-client"'
    assert "/// Read only: a write is refused.\nmodel User {" in text


def test_it_says_the_same_before_and_after_the_switch(verified: Split) -> None:
    before = schema(verified, *MADE)
    move(verified, "switch")
    assert schema(verified, *MADE) == before


@pytest.mark.parametrize("service", SERVICES)
def test_each_column_of_each_table_has_one_field(six: Split, service: str) -> None:
    text = schema(six, "prisma", service, "--from", str(SCHEMA))
    with six.service(service) as database:
        rows = database.execute(
            "select table_name, array_agg(column_name::text) from information_schema.columns"
            " where table_schema = %s group by 1",
            (service,),
        ).fetchall()
    for table, columns in rows:
        (found,) = (
            one for one in re.findall(r"^model \w+ {\n.*?^}$", text, re.DOTALL | re.MULTILINE)
            if f'@@map("{table}")' in one
        )  # fmt: skip
        fields = [" ".join(one.split()) for one in found.splitlines()[1:-1]]
        named = [re.search(r'@map\("(.*?)"\)', one) for one in fields]
        known = [
            match[1] if match else one.split()[0]
            for one, match in zip(fields, named, strict=True)
            if one and not one.startswith(("@@", "//"))
        ]
        assert set(columns) <= set(known), table
        assert len([one for one in known if one in columns]) == len(columns), table


def test_new_columns_and_moved_rows_are_listed(six: Split) -> None:
    contracts = changes(six, "prisma", "contracts", "--from", str(SCHEMA))
    assert contracts["Contract.startDate"] == [
        "value: Contract.startDateNew (DateTime), the date alone; Contract.startTime (DateTime),"
        " the time of day alone"
    ]
    assert contracts["Contract.clientId"][0].endswith("null unless a create gives it")
    notices = changes(six, "prisma", "communication", "--from", str(SCHEMA))
    assert notices["Notification"] == ["table: some of its rows are in ChatMessage now"]
    files = changes(six, "prisma", "files", "--from", str(SCHEMA))
    assert "the rows where source_table = 'portfolio_items'" in files["FileMetadata"][0]
    market = changes(six, "prisma", "marketplace", "--from", str(SCHEMA))
    assert market["Company.user"] == ["relation: shared_companies (user_id) is not unique here"]
    users = schema(six, "prisma", "users", "--from", str(SCHEMA))
    assert "company Company?" in block(users, "model User")


# Bad input


def refused(split: Split, *arguments: str, code: int) -> str:
    done = split.runner(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def test_a_service_that_is_not_built_is_refused(landed: Split) -> None:
    said = refused(landed, "prisma", "payments", code=4)
    assert "The tables of payments_db have not been built yet." in said
    assert "runner.py run payments" in said


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 4, "The application's schema can't be read"),
        ("// only a comment", 4, "There is no model in it."),
        ("model A {\n id Int @id", 4, "A block is not closed: model A {"),
        (
            'datasource db {\n provider = "mysql"\n}\nmodel A {\n id Int @id\n}',
            5,
            "Its datasource is for mysql",
        ),
        (b"\xff\xfe\x00model", 4, "The application's schema can't be read"),
    ],
)
def test_a_schema_that_is_none_is_refused(
    verified: Split, tmp_path: Path, text: str | bytes | None, code: int, message: str
) -> None:
    path = tmp_path / "schema.prisma"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    said = refused(verified, "prisma", "payments", "--from", str(path), code=code)
    assert message in said
    assert f"where: {path}" in said


def test_a_schema_of_our_own_is_no_source(verified: Split, tmp_path: Path) -> None:
    path = tmp_path / "payments.prisma"
    schema(verified, *MADE, "--output", str(path))
    said = refused(verified, "prisma", "payments", "--from", str(path), code=5)
    assert "This schema was written for a service's database" in said


def test_an_edited_file_stays_unless_forced(verified: Split, tmp_path: Path) -> None:
    path = tmp_path / "payments.prisma"
    command = (*MADE, "--output", str(path))
    schema(verified, *command)
    written = path.read_text()
    # An editor's `prisma format` is no edit, nor is what an older run has written.
    path.write_text(written.replace("\n  ", "\n    "))
    schema(verified, *command)
    assert path.read_text() == written
    edited = written.replace("amountNew", "amountInUnits")
    path.write_text(edited)
    said = refused(verified, *command, code=6)
    assert "The file was edited, or something else wrote it." in said
    compare = re.search(r"Compare: runner.py (.*?) \|", said)
    assert compare and verified.runner(*compare[1].split()).returncode == 0
    assert path.read_text() == edited
    schema(verified, *command, "--force")
    assert path.read_text() == written
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_the_application_s_own_schema_is_never_overwritten(
    verified: Split, tmp_path: Path
) -> None:
    path = tmp_path / "schema.prisma"
    shutil.copy(SCHEMA, path)
    for source, output in ((path, path), (tmp_path, path)):
        said = refused(
            verified,
            *("prisma", "payments", "--from", str(source), "--output", str(output), "--force"),
            code=6,
        )
        assert "the application's present schema, which is still needed" in said
    assert path.read_text() == SCHEMA.read_text()


def test_a_folder_that_is_not_there_is_named(verified: Split, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "p.prisma"
    said = refused(verified, *MADE, "--output", str(path), code=4)
    assert "The schema can't be written" in said and str(path) in said


# With Prisma itself


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return application(tmp_path / "app")


def accepted(app: Application, split: Split, *arguments: str) -> Path:
    """Write a schema into the application's folder, and have Prisma validate it."""
    path = app.home / f"{arguments[1]}.prisma"
    schema(split, *arguments, "--output", str(path), "--force")
    done = app.prisma("validate", path)
    assert done.returncode == 0, done.stdout + done.stderr + path.read_text()
    return path


@pytest.mark.slow
def test_prisma_accepts_the_schema_of_every_service(six: Split, app: Application) -> None:
    for service in SERVICES:
        path = accepted(app, six, "prisma", service, "--from", str(SCHEMA))
        formatted = app.prisma("format", path)
        assert formatted.returncode == 0, formatted.stderr
        schema(six, "prisma", service, "--from", str(SCHEMA), "--output", str(path))
        accepted(app, six, "prisma", service)


@pytest.mark.slow
def test_code_compiles_unchanged_except_where_values_changed(
    verified: Split, app: Application
) -> None:
    app.generate(app.home / "monolith.prisma")
    app.generate(accepted(app, verified, *MADE))
    files = []
    for side in ("monolith", "payments"):
        folder = app.home / side
        folder.mkdir()
        (folder / "client.ts").write_text(f"export * from '../generated/{side}'\n")
        files.append(shutil.copy(app.home / "unchanged.ts", folder))
    files.append(shutil.copy(app.home / "changed.ts", app.home / "payments"))
    done = app.compile(*files)
    assert done.returncode == 0, done.stdout
