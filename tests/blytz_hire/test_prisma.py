"""A service's schema.prisma, and what an application sees while its service moves.

With Node, the schema goes to Prisma itself, and a real client made of it reads and writes.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import stat
import subprocess
import time
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
from tests.support.switching import PAYMENTS, move, ran
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
    # A reason of a refund that code goes on writing here would count for nothing.
    assert found["Payment.metadata"] == [
        "table: stays, and is also Dispute.reason (String), disputeReason as text;"
        " Refund.reason (String?), refundReason as text"
    ]
    assert found["Payment.amountNew"] == ["new: a create has to give it"]
    assert found["Payment"][0].startswith("check: a write must keep amount = round(amount, 2);")
    assert found["Payment.contract"] == ["relation: Contract is not in this database"]
    assert found["Contract, Invoice, Milestone, Timesheet"] == [
        "elsewhere: in the database of contracts"
    ]
    (user,) = found["User"]
    assert user.startswith(
        "read only: a copy that users writes; read only. Not here: emailVerified,"
    )
    assert user.endswith("A deleted row stays, with deletedAt set: ask for { deletedAt: null }")
    assert found["Payment.user"] == [
        "relation: no foreign key guards it: a User may be missing, and can't be written"
    ]


def test_changes_stand_in_the_file_and_beside_it(verified: Split, tmp_path: Path) -> None:
    done = verified.runner(*MADE)
    assert (
        "// - Payment.stripeFee: Payment.stripeFeeNew (Decimal?), units, not cents" in done.stdout
    )
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


def test_the_application_s_settings_stay_and_nothing_of_the_monolith_is_overwritten(
    verified: Split, tmp_path: Path
) -> None:
    models = SCHEMA.read_text().split("\nmodel ", 1)[1]
    path = tmp_path / "schema.prisma"
    path.write_text(
        'generator js {\n provider = "prisma-client-js"\n previewFeatures = ["views"]\n}\n'
        'generator zod {\n provider = "zod-prisma"\n output = "./zod"\n}\nmodel ' + models
    )
    text = schema(verified, "prisma", "payments", "--from", str(path))
    assert block(text, "generator js") == [
        'provider = "prisma-client-js"',
        'previewFeatures = ["views"]',
        'output = "./generated/payments"',
    ]
    assert block(text, "generator zod")[1] == 'output = "./generated/payments-zod"'
    # It has no datasource; this is Prisma 7's, with a word for older ones.
    assert block(text, "datasource db") == [
        'provider = "postgresql"',
        'schemas = ["payments_db"]',
        '// Prisma 6 and older also want: url = env("PAYMENTS_WRITE_URL")',
    ]
    path.write_text(
        'datasource db {\n provider = "postgres"\n url = env("DATABASE_URL")\n'
        ' directUrl = env("DIRECT_URL")\n}\nmodel ' + models
    )
    text = schema(verified, "prisma", "payments", "--from", str(path))
    assert block(text, "datasource db") == [
        'provider = "postgres"',
        'url = env("PAYMENTS_WRITE_URL")',
        'schemas = ["payments_db"]',
    ]
    assert block(text, "generator client")[0] == 'provider = "prisma-client"'


def test_it_says_the_same_before_and_after_the_switch(verified: Split) -> None:
    before = schema(verified, *MADE)
    move(verified, "switch")
    assert schema(verified, *MADE) == before


def test_each_column_of_each_table_has_one_field(six: Split) -> None:
    for service in SERVICES:
        text = schema(six, "prisma", service, "--from", str(SCHEMA))
        models = re.findall(r"^model \w+ {\n(.*?)^}$", text, re.DOTALL | re.MULTILINE)
        with six.service(service) as database:
            rows = database.execute(
                "select table_name, array_agg(column_name::text) from information_schema.columns"
                " where table_schema = %s group by 1",
                (service,),
            ).fetchall()
        assert len(rows) == len(models)
        for table, columns in rows:
            (found,) = (one for one in models if f'@@map("{table}")' in one)
            lines = [" ".join(one.split()) for one in found.splitlines()]
            fields = [one for one in lines if one and not one.startswith(("@@", "//"))]
            named = [re.search(r'@map\("(.*?)"\)', one) for one in fields]
            known = [
                match[1] if match else one.split()[0]
                for one, match in zip(fields, named, strict=True)
            ]
            assert sorted(one for one in known if one in columns) == sorted(columns), table


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
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
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


def test_the_application_s_own_schema_is_never_overwritten(verified: Split, tmp_path: Path) -> None:
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


def test_a_folder_is_read_without_what_was_written_into_it(verified: Split, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    head, models = SCHEMA.read_text().split("\nmodel ", 1)
    (tmp_path / "main.prisma").write_text(head)
    (tmp_path / "models" / "all.prisma").write_text("model " + models)
    command = ("prisma", "payments", "--from", str(tmp_path), "--output")
    schema(verified, *command, str(tmp_path / "payments.prisma"))
    first = (tmp_path / "payments.prisma").read_text()
    schema(verified, *command, str(tmp_path / "payments.prisma"))
    assert (tmp_path / "payments.prisma").read_text() == first == schema(verified, *MADE)


def test_a_folder_that_is_not_there_is_named(verified: Split, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "p.prisma"
    said = refused(verified, *MADE, "--output", str(path), code=4)
    assert "The schema can't be written" in said and str(path) in said


# With Prisma itself


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return application(tmp_path / "app")


def written(app: Application, split: Split, *arguments: str) -> Path:
    """Write a schema into the application's folder."""
    path = app.home / f"{arguments[1]}.prisma"
    schema(split, *arguments, "--output", str(path), "--force")
    return path


def accepted(app: Application, split: Split, *arguments: str) -> Path:
    """Write a schema into the application's folder, and have Prisma validate it."""
    path = written(app, split, *arguments)
    done = app.prisma("validate", path)
    assert done.returncode == 0, done.stdout + done.stderr + path.read_text()
    return path


def prepared(app: Application, split: Split) -> None:
    """Make both clients: the monolith's, and the service's from the schema that we write."""
    app.generate(app.home / "monolith.prisma")
    app.generate(written(app, split, *MADE))


@pytest.mark.slow
def test_prisma_accepts_the_schema_of_every_service(six: Split, app: Application) -> None:
    for service in SERVICES:
        path = accepted(app, six, "prisma", service, "--from", str(SCHEMA))
    formatted = app.prisma("format", path)
    assert formatted.returncode == 0, formatted.stderr
    schema(six, "prisma", service, "--from", str(SCHEMA), "--output", str(path))
    app.generate(written(app, six, "prisma", "users"))


@pytest.mark.slow
def test_code_compiles_unchanged_except_where_values_changed(
    verified: Split, app: Application
) -> None:
    prepared(app, verified)
    files = []
    for side in ("monolith", "payments"):
        folder = app.home / side
        folder.mkdir()
        (folder / "client.ts").write_text(f"export * from '../generated/{side}'\n")
        files.append(shutil.copy(app.home / "unchanged.ts", folder))
    files.append(shutil.copy(app.home / "changed.ts", app.home / "payments"))
    done = app.compile(*files)
    assert done.returncode == 0, done.stdout


ODD = """
    create domain payments_db.percent as numeric(5, 2) check (value between 0 and 100);
    create type payments_db.mood as enum ('so so', 'great', '3rd');
    create table payments_db."odd things" (
        "1st key" uuid default gen_random_uuid(),
        "class" varchar(20) not null default 'it''s "odd"',
        part integer generated always as identity,
        mood payments_db.mood not null default 'so so',
        moods payments_db.mood[] default '{}',
        share payments_db.percent,
        words tsvector generated always as (to_tsvector('simple', "class")) stored,
        small smallint default 3, big bigint default 9, exact numeric(12, 2) default 1.50,
        loose numeric, single real, cash money, code char(3), bits bit(4), more_bits bit varying(9),
        at timestamp, at_zone timestamptz(3) default current_timestamp, day date, clock time(0),
        clock_zone timetz, doc json default '{"a": 1}', docs jsonb[], net inet, raw bytea, x xml,
        span int4range, point point, tags text[] not null default '{}', parent uuid, other uuid,
        primary key ("1st key", part), unique ("1st key"),
        foreign key (parent) references payments_db."odd things" ("1st key") on delete cascade,
        foreign key (other) references payments_db."odd things" ("1st key") on delete set null
    );
    create index on payments_db."odd things" using gin (words);
    create index on payments_db."odd things" using gin (tags);
    create index on payments_db."odd things" (lower("class"));
    create unique index on payments_db."odd things" (big) where small > 3;
    create index on payments_db."odd things" using brin (at);
    create table payments_db.keyless (word text);
    create table payments_db."payment" (id serial primary key, payment_id text unique
        references payments_db.payments);
"""


@pytest.mark.slow
def test_a_table_of_any_shape_has_a_model(verified: Split, app: Application) -> None:
    """A service adds tables of its own, with whatever PostgreSQL has."""
    with verified.service("payments_db") as database:
        database.execute(ODD)
    path = written(app, verified, *MADE)
    text = path.read_text()
    odd = block(text, "model OddThing")
    assert 'stKey String @unique(map: "odd things_1st key_key")' in odd[0]
    assert '@default(dbgenerated("gen_random_uuid()")) @map("1st key") @db.Uuid' in odd[0]
    assert 'class String @default("it\'s \\"odd\\"") @db.VarChar(20)' in odd
    assert "part Int @default(autoincrement())" in odd
    assert "mood mood @default(so_so)" in odd and "moods mood[] @default([])" in odd
    assert 'so_so @map("so so")' in block(text, "enum mood")
    assert "exact Decimal? @default(1.50) @db.Decimal(12, 2)" in odd
    assert "share Decimal? @db.Decimal(5, 2)" in odd
    assert 'span Unsupported("int4range")?' in odd
    assert 'atZone DateTime? @default(now()) @map("at_zone") @db.Timestamptz(3)' in odd
    assert '@@id([stKey, part], map: "odd things_pkey")' in odd
    assert len([one for one in odd if one.startswith("// Prisma can't say the index")]) == 4
    assert "@@ignore" in block(text, "model Keyless")
    # Its name in code belongs to the monolith's table.
    assert "paymentId String? @unique" in " ".join(block(text, "model PaymentTable"))
    app.generate(path)


# Through a switch and a rollback


@dataclass
class Running:
    """The application at work: what it has acknowledged, and on which side."""

    process: subprocess.Popen[str]
    said: list[dict[str, Any]] = field(default_factory=list)

    def follow(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def writes_at(self, side: str) -> None:
        """Wait until it has written there a few times, and no longer elsewhere."""
        before = len(self.said)

        def is_there() -> bool:
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            fresh = self.said[before:]
            return len(fresh) > 5 and all(one["side"] == side for one in fresh[-4:])

        until(is_there)


@contextmanager
def running(app: Application, place: str, tag: str) -> Iterator[Running]:
    process = app.start("application.mjs", place, MONOLITH, tag)
    work = Running(process)
    reader = Thread(target=work.follow)
    reader.start()
    try:
        work.writes_at(MONOLITH)
        yield work
    finally:
        assert process.stdin
        process.stdin.close()
        reader.join()
        process.wait()


def assert_all_there(split: Split, work: Running) -> None:
    """Check that each acknowledged payment is on both sides, once, as it was written."""
    ran(split, "sync", "payments")
    wanted = {one["id"] for one in work.said}
    assert all(one["isSame"] for one in work.said)
    questions = {
        MONOLITH: "select id, amount from blytz_hire.payments where id like 'app-%%'",
        "payments_db": "select id, amount * 100 from payments_db.payments where id like 'app-%%'",
    }
    for side, question in questions.items():
        with split.connections.connect(side) as connection:
            found = dict(connection.execute(question).fetchall())
        assert wanted <= set(found), side
        assert set(found.values()) == {700}, side


@pytest.mark.slow
def test_a_prisma_client_goes_on_through_switch_and_rollback(
    verified: Split, app: Application
) -> None:
    prepared(app, verified)
    with running(app, str(env_file.file(PAYMENTS, verified.connections)), "app") as work:
        move(verified, "switch")
        work.writes_at("payments_db")
        move(verified, "rollback")
        work.writes_at(MONOLITH)
    assert {code for one in work.said for code in one["seen"]} == {"25006"}
    assert_all_there(verified, work)


@contextmanager
def behind_pgbouncer(split: Split) -> Iterator[tuple[Bouncer, Split]]:
    """Put a PgBouncer in transaction mode in front of a service that is verified."""
    if not PGBOUNCER:
        pytest.skip("PgBouncer is not installed; apt-get install pgbouncer")
    home, port = short_folder("bouncer-"), free_port()
    folder = home / "connections"
    shutil.copytree(split.connections.folder, folder)
    for path in (home, folder, *folder.iterdir()):
        own(path)
    connections = replace(
        split.connections,
        folder=folder,
        application_url=with_database(split.server.tcp, MONOLITH),
        pgbouncer_url=with_database(split.server.tcp, "pgbouncer", user="admin", port=str(port)),
    )
    environ = {
        **split.environ,
        "BLYTZ_HIRE_CONNECTIONS": str(folder),
        "BLYTZ_HIRE_APPLICATION_URL": connections.application_url,
        "PGBOUNCER_ADMIN_URL": connections.pgbouncer_url,
    }
    bouncer = Bouncer(home, port, split, connections)
    through = Split(split.server, connections, environ)
    try:
        # The first time there is no PgBouncer yet, which is only noted.
        ran(through, "provision", "payments")
        bouncer.configure()
        bouncer.start()
        yield bouncer, through
    finally:
        bouncer.stop()
        shutil.rmtree(home)


@pytest.mark.slow
def test_a_prisma_client_goes_on_behind_pgbouncer(verified: Split, app: Application) -> None:
    """Its URL stays the same, so it notices by the tables that it is on the other side now."""
    prepared(app, verified)
    with behind_pgbouncer(verified) as (bouncer, split), running(app, bouncer.url(), "app") as work:
        move(split, "switch")
        work.writes_at("payments_db")
        move(split, "rollback")
        work.writes_at(MONOLITH)
    # A transaction that began before the move may still meet the fence.
    codes = {code for one in work.said for code in one["seen"]}
    assert {"42501", "42P01"} <= codes <= {"42501", "42P01", "25006"}
    assert_all_there(verified, work)


# What the drivers say


def in_psycopg(url: str, sql: str) -> str:
    """Give the class with which psycopg reports a statement's failure."""
    with psycopg.connect(url, autocommit=True) as connection, pytest.raises(psycopg.Error) as said:
        connection.execute(sql)
    return said.type.__name__


@contextmanager
def drivers(app: Application) -> Iterator[Callable[..., dict[str, tuple[str, str, str]]]]:
    """Ask node-postgres and Prisma how they report a failure."""
    process = app.start("codes.mjs")
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def ask(
        url: str,
        sql: str,
        schema: str = "",
        begin: str = "",
        between: Callable[[], object] = lambda: None,
    ) -> dict[str, tuple[str, str, str]]:
        probe = {"name": sql, "url": url, "sql": sql, "schema": schema, "begin": begin}
        probe = {name: text for name, text in probe.items() if text}
        stdin.write(json.dumps(probe) + "\n")
        stdin.flush()
        found: dict[str, tuple[str, str, str]] = {}
        while len(found) < 2:
            line = stdout.readline()
            assert line, process.stderr and process.stderr.read()
            one = json.loads(line)
            if one["driver"] == "ready":
                between()
                stdin.write("go\n")
                stdin.flush()
            else:
                known = (one["class"], one.get("code") or "", one.get("is") or "")
                found[one["driver"]] = known
        return found

    try:
        yield ask
    finally:
        stdin.close()
        process.wait()


UPDATE = "update blytz_hire.payments set status = status"
OWN_UPDATE = "update payments_db.payments set status = status"


@pytest.mark.slow
def test_each_driver_reports_what_the_page_says(verified: Split, app: Application) -> None:
    app.generate(app.home / "monolith.prisma")
    monolith = with_database(verified.server.tcp, MONOLITH)
    own_url = env_file.own_url(PAYMENTS, verified.connections)
    seen: dict[str, tuple[str, dict[str, tuple[str, str, str]]]] = {}
    with drivers(app) as ask:
        # Each side's SQL on the other side, and a transaction that has read before the switch.
        seen["42501"] = (in_psycopg(own_url, UPDATE), ask(own_url, UPDATE, MONOLITH))
        seen["42P01"] = (in_psycopg(monolith, OWN_UPDATE), ask(monolith, OWN_UPDATE, "payments_db"))
        count = "select count(*)::int from blytz_hire.payments"
        with psycopg.connect(monolith) as old:
            old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            old.execute(count)
            conflict = ask(monolith, UPDATE, MONOLITH, count, lambda: move(verified, "switch"))
            with pytest.raises(psycopg.errors.SerializationFailure):
                old.execute(UPDATE)
        seen["40001"] = ("SerializationFailure", conflict)
        seen["25006"] = (in_psycopg(monolith, UPDATE), ask(monolith, UPDATE, MONOLITH))
        end = "select pg_terminate_backend(pg_backend_pid())"
        seen["57P01"] = (in_psycopg(monolith, end), ask(monolith, end))
        raw = ask(monolith, UPDATE)["Prisma"]
    page = PAGE.read_text("utf-8")
    for sqlstate, (psycopg_class, found) in seen.items():
        node, prisma = found["node-postgres"], found["Prisma"]
        assert node == ("DatabaseError", sqlstate, sqlstate)
        assert (prisma[0], prisma[2]) == ("PrismaClientKnownRequestError", sqlstate)
        cells = rf"`{sqlstate}` \| .*`{psycopg_class}` \| `{sqlstate}` \| .*`{prisma[1]}`"
        assert re.search(rf"^\| {cells}", page, re.MULTILINE), (sqlstate, prisma)
    assert raw == ("PrismaClientKnownRequestError", "P2010", "25006")


def test_the_page_shows_the_retry_that_is_tested() -> None:
    code = (ROOT / "tests" / "prisma" / "retry.mjs").read_text("utf-8")
    assert f"```js\n{code}```" in PAGE.read_text("utf-8")


def test_the_page_s_retry_for_psycopg_goes_where_writes_are(switched: Split) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    page: dict[str, Any] = {"psycopg": psycopg, "time": time, "random": random}
    exec(code, page)
    monolith = switched.connections.urls[MONOLITH]
    urls = ["postgresql://nobody@127.0.0.1:1/nowhere", monolith]
    urls.append(env_file.read(PAYMENTS, switched.connections).write)
    tried: list[str] = []

    def settle(connection: psycopg.Connection[Any], side: str) -> int:
        tried.append(side)
        return connection.execute(OWN_UPDATE if side == "payments_db" else UPDATE).rowcount

    assert page["through"](lambda: urls.pop(0), settle) > 0
    assert (tried, urls) == ([MONOLITH, "payments_db"], [])
    with pytest.raises(psycopg.errors.UndefinedColumn):
        page["through"](lambda: monolith, lambda one, _: one.execute("select nothing"))
