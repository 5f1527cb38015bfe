"""Random traffic on the monolith: what its clients usually do, and what they could do, too.

A seed chooses operations, rows and values. A statement may fail, as a real client's does; what
counts is what was committed, by kind of operation and table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import psycopg
from psycopg import errors

Connection = psycopg.Connection[Any]
Done = Counter[tuple[str, str]]

# Rows to make others of, when a table is empty too.
SAMPLES = "workload"
# What may happen to a client of the monolith; anything else is a mistake of this module's.
REFUSALS = (errors.IntegrityError, errors.DeadlockDetected, errors.LockNotAvailable)
LEAVES = (
    "badges",
    "skills_assessments",
    "match_votes",
    "reviews",
    "notifications",
    "portfolio_items",
    "timesheets",
    "invoices",
)
# Payments and votes refer to matches.
TRUNCATED_WITH_DEPENDANTS = "matches"
FEWEST = 8

# References that the monolith has no foreign key for.
LOOSE = {
    "payments": {"receiverId": "users", "milestoneId": "milestones"},
    "invoices": {"contractId": "contracts", "userId": "users", "receiverId": "users"},
    "timesheets": {"approvedBy": "users"},
    "reviews": {"reviewerId": "users"},
    "match_votes": {"userId": "users"},
}
UNIQUE = {
    "users": ("email",),
    "va_profiles": ("userId",),
    "companies": ("userId",),
    "matches": ("jobPostingId", "vaProfileId"),
    "match_votes": ("jobPostingId", "vaProfileId", "userId"),
    "payments": ("stripePaymentIntentId",),
}
URL_COLUMNS = (
    ("portfolio_items", "fileUrl"),
    ("portfolio_items", "thumbnailUrl"),
    ("va_profiles", "resumeUrl"),
    ("va_profiles", "videoIntroUrl"),
    ("va_profiles", "avatarUrl"),
    ("companies", "logoUrl"),
)

TEXTS = (
    "",
    " ",
    "plain",
    "NULL",
    "\\N",
    "null",
    'O\'Brien said "so" \\ and {a,b}',
    "two\nlines\r\tand a tab",
    "日本語 🚀 👩🏽‍💻",
    "e\u0301 is not \u00e9, no\u00a0break",
    "مساعد",
)
URLS = (
    "https://uploads.s3.amazonaws.com/" + Random("too long to index").randbytes(4500).hex(),
    "https://uploads.s3.amazonaws.com/a/one.png",
    "https://uploads.s3.amazonaws.com/a/One.PNG?sig=a%2Fb#page=2",
    "https://s3.eu-west-2.amazonaws.com/bucket/two.tar.gz",
    "https://s3.amazonaws.com/bucket",
    "s3://bucket/作品集-é-📁.zip",
    "https://example.com/three.pdf",
    "data:image/png;base64,iVBORw0KGgo=",
    "available on request",
    " padded.png ",
    "",
)
DOUBLES = (
    0.1 + 0.2,
    0.0,
    -0.0,
    1e300,
    5e-324,
    1 / 3,
    -12.5,
    1.005,
    123456789.12345679,
    9007199254740993.0,
    float("nan"),
    float("inf"),
    float("-inf"),
)
INTEGERS = (0, 1, -1, 42, 101, 2147483647, -2147483648)
TIMES = (
    "2025-03-30 02:30:00.001",
    "2024-02-29 23:59:59.999",
    "1970-01-01 00:00:00",
    "2038-01-19 03:14:08.1",
    "9999-12-31 23:59:59.999",
    "0044-03-15 12:00:00 BC",
    "infinity",
    "-infinity",
)
DOCUMENTS = (
    "null",
    "{}",
    "[]",
    '""',
    "true",
    "1.50",
    '"text"',
    '{"n": 1.10, "big": 12345678901234567890, "tiny": 1e-30, "none": null}',
    '{"n": 1.1}',
    '{"a key": {"with.dots": [null, "", [], {}]}, "quote\\"": "tab\\t, \\\\", "名": "🚀"}',
    '[{"senderId": "inside"}, "disputeReason"]',
)
ATTACHMENTS = (
    "null",
    "[]",
    "7",
    '"bare.pdf"',
    '{"url": "https://uploads.s3.amazonaws.com/bare/object.pdf"}',
    '["a.pdf", "", "s3://bucket/b.pdf"]',
    '["s3://bucket/b.pdf", "a.pdf"]',
    '[null, 7, [], {}, {"url": 7}, {"url": "c.pdf", "size": 1.50}, "a.pdf", "a.pdf"]',
)
RATES = ("$10-$20/hr", "$1,000 - $2,500/month", "€30–€45 per hour", "15 USD", "negotiable", "$10k")
TYPES = ("chat_message", "chat_message", "payment_received", "Chat_Message", "")
SENT = ("2025-03-01T10:00:00.120Z", "2025-03-01T10:00:00Z", "yesterday", "", None, 1740823200000)


@dataclass(frozen=True)
class Column:
    """A column of the monolith."""

    name: str
    kind: str
    nullable: bool

    @property
    def value(self) -> str:
        """The placeholder of a value of it."""
        return f"%s::{'text[]::' if self.kind == 'jsonb[]' else ''}{self.kind}"


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of the monolith, and whether deleting a parent only sets it to null."""

    child: str
    parent: str
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    sets_null: bool


@dataclass(frozen=True)
class Schema:
    """The monolith's tables and their foreign keys."""

    tables: dict[str, tuple[Column, ...]]
    foreign_keys: tuple[ForeignKey, ...]

    def references(self, table: str) -> dict[str, str]:
        """Name the columns that refer to another table's id, and that table."""
        found = {
            key.columns[0]: key.parent
            for key in self.foreign_keys
            if key.child == table and len(key.columns) == 1
        }
        return found | LOOSE.get(table, {})


def prepare(monolith: Connection) -> Schema:
    """Read the monolith's definitions, and keep samples of its rows."""
    tables: dict[str, list[Column]] = {}
    for table, column, kind, nullable in monolith.execute(COLUMNS).fetchall():
        tables.setdefault(table, []).append(Column(column, kind, nullable))
    foreign_keys = [
        ForeignKey(child, parent, tuple(columns), tuple(parent_columns), sets_null)
        for child, parent, columns, parent_columns, sets_null in monolith.execute(FOREIGN_KEYS)
    ]
    monolith.execute(f"create schema {SAMPLES}")
    for table in tables:
        monolith.execute(f"create table {SAMPLES}.{table} as table blytz_hire.{table}")
    return Schema({t: tuple(columns) for t, columns in tables.items()}, tuple(foreign_keys))


class Writer:
    """A client of the monolith, with a connection of its own.

    `done` counts what it has committed, by kind of operation and table; `refused` what the
    monolith has refused, by kind and reason.
    """

    def __init__(self, connection: Connection, schema: Schema, seed: str) -> None:
        self.connection = connection
        self.schema = schema
        self.seed = seed
        self.random = Random(seed)
        self.done: Done = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.made = 0
        # Cards rather than dice: every kind meets every table, in any order.
        self.kinds = self._deck([k for k, (often, _) in KINDS.items() for _ in range(often)])
        self.decks = {
            kind: self._deck(tables or tuple(schema.tables)) for kind, (_, tables) in KINDS.items()
        }
        connection.execute("set deadlock_timeout = '50ms'; set lock_timeout = '2s'")

    def work(self, transactions: int) -> None:
        """Run a number of transactions, one after the other."""
        for _ in range(transactions):
            self._transaction(self._mixed)

    def truncate(self, table: str) -> None:
        """Truncate a table and those that refer to it, amid other changes; retry until it works."""
        kind = "truncate with dependants" if table == TRUNCATED_WITH_DEPENDANTS else "truncate"

        def emptied() -> Done:
            done = self._mixed()
            self.connection.execute(f"truncate blytz_hire.{table} cascade")
            done[kind, table] += 1
            with self._savepoint():
                done["insert", table] += self._insert(table)
            return done

        before = self.done[kind, table]
        for _ in range(50):
            self._transaction(emptied, always=True)
            if self.done[kind, table] > before:
                return
        raise AssertionError(f"{table} could not be truncated: {self.refused}")

    # Transactions

    def _transaction(self, body: Callable[[], Done], *, always: bool = False) -> None:
        done: Done = Counter()
        roll = 1.0 if always else self.random.random()
        try:
            with self.connection.transaction():
                if roll < 0.05:
                    done["empty transaction", ""] += 1
                else:
                    done = body()
                if 0.05 <= roll < 0.15 and done:
                    done = Counter({("rollback", ""): 1})
                    raise psycopg.Rollback
        except REFUSALS as error:
            self.refused["transaction", str(error.sqlstate)] += 1
            return
        self.done += done

    def _mixed(self, depth: int = 0) -> Done:
        done: Done = Counter()
        for _ in range(self.random.randint(1, 4)):
            roll = self.random.random()
            if roll < 0.25 and depth < 3:
                done += self._nested(depth)
            elif roll < 0.9:
                with self._savepoint():
                    done += self._step()
            else:  # a failure ends the transaction
                done += self._step()
        return done

    def _nested(self, depth: int) -> Done:
        done: Done = Counter()
        kept = self.random.random() < 0.5
        with self._savepoint(), self.connection.transaction() as savepoint:
            done = self._mixed(depth + 1)
            if not kept:
                kind = "savepoint rolled back" + (" in a savepoint" if depth else "")
                done = Counter({(kind, ""): 1}) if done else done
                raise psycopg.Rollback(savepoint)
        return done

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        """A block that the monolith may refuse: then it is rolled back and counted."""
        try:
            with self.connection.transaction():
                yield
        except REFUSALS as error:
            self.refused["statement", str(error.sqlstate)] += 1

    def _step(self) -> Done:
        kind = next(self.kinds)
        table = next(self.decks[kind])
        affected = getattr(self, "_" + kind.replace(" ", "_"))(table)
        return Counter({(kind, table): 1}) if affected else Counter()

    # Operations: each gives the number of rows that it has changed.

    def _insert(self, table: str, **given: Any) -> int:
        columns = self.schema.tables[table]
        values = {"id": self._new_id(), **self._refer_to(table), **given}
        for column in UNIQUE.get(table, ()):
            if column not in values:
                values[column] = self._new_id()
        for column in self._plain_columns(table):
            if column.name not in values and self.random.random() < 0.3:
                values[column.name] = self._value(table, column)
        taken = ", ".join(c.value if c.name in values else f'"{c.name}"' for c in columns)
        return self._change(
            f"insert into blytz_hire.{table} select {taken} from {SAMPLES}.{table}"
            " order by md5(id || %s) limit 1",
            *(values[c.name] for c in columns if c.name in values),
            self._salt(),
        )

    def _update(self, table: str, where: str = "id = %s", *of: Any) -> int:
        plain = self._plain_columns(table)
        columns = self.random.sample(plain, min(len(plain), self.random.randint(1, 4)))
        return self._set(
            table,
            {c.name: self._value(table, c) for c in columns},
            where,
            *of or [self._pick(table)],
        )

    def _respell(self, table: str) -> int:
        """Write a value that is equal but spelled differently."""
        columns = [c for c in self._plain_columns(table) if c.kind in SPELLINGS]
        if not columns:
            return 0
        column = self.random.choice(columns)
        one, other = SPELLINGS[column.kind]
        name, is_either = f'"{column.name}"', f'coalesce("{column.name}"::text in (%s, %s), false)'
        return self._change(
            f"update blytz_hire.{table}"
            f" set {name} = case {name}::text when %s then {column.value} else {column.value} end"
            f" where id = (select id from blytz_hire.{table}"
            f" order by {is_either} desc, md5(id || %s) limit 1)",
            *(one, other, one, one, other, self._salt()),
        )

    def _update_many(self, table: str) -> int:
        return self._update(table, "md5(id || %s) < '6'", self._salt())

    def _refer(self, table: str) -> int:
        values = self._refer_to(table)
        if not values:
            return 0
        if table not in ("matches", "match_votes"):  # whose columns belong together
            names = self.random.sample(sorted(values), self.random.randint(1, len(values)))
            values = {name: values[name] for name in names}
        return self._set(table, values, "id = %s", self._pick(table))

    def _delete(self, table: str) -> int:
        if self._is_scarce(table):
            return 0
        return self._change(f"delete from blytz_hire.{table} where id = %s", self._pick(table))

    def _delete_with_dependants(self, table: str) -> int:
        if self._is_scarce(table):
            return 0
        return self._delete_tree(table, self._pick(table))

    def _delete_tree(self, table: str, id: str | None) -> int:
        for key in self.schema.foreign_keys:
            if key.parent != table or key.sets_null:
                continue
            children = self.connection.execute(
                f"select child.id from blytz_hire.{key.child} as child"
                f" inner join blytz_hire.{table} as parent on ({_names(key.columns, 'child')})"
                f" = ({_names(key.parent_columns, 'parent')}) where parent.id = %s",
                (id,),
            ).fetchall()
            for (child,) in children:
                self._delete_tree(key.child, child)
        return self._change(f"delete from blytz_hire.{table} where id = %s", id)

    def _rekey(self, table: str) -> int:
        return self._set(table, {"id": self._new_id()}, "id = %s", self._pick(table))

    def _swap_keys(self, table: str) -> int:
        one, other = self._two(table)
        parked = self._new_id()
        steps = [(one, parked), (other, one), (parked, other)]
        return all(self._set(table, {"id": new}, "id = %s", old) for old, new in steps)

    def _swap_unique(self, table: str) -> int:
        """Swap by way of a third value, since the monolith checks row by row."""
        one, other = self._two(table)
        values, other_values = self._unique_values(table, one), self._unique_values(table, other)
        if not values or not other_values:
            return 0
        if table in ("va_profiles", "companies", "matches"):
            parked = self._refer_to(table)
        else:
            parked = {UNIQUE[table][-1]: self._new_id()}
        steps = [(one, parked), (other, values), (one, other_values)]
        return all(self._set(table, new, "id = %s", id) for id, new in steps)

    def _swap_unique_in_one_statement(self, table: str) -> int:
        """The sort ensures that both rows are deleted before either is inserted again."""
        one, other = self._two(table)
        unique = UNIQUE[table]
        rest = [c.name for c in self.schema.tables[table] if c.name not in unique]
        return self._change(
            f"with gone as (delete from blytz_hire.{table} where id = any(%s) returning *)"
            f" insert into blytz_hire.{table} ({_names(rest)}, {_names(unique)})"
            f" select {_names(rest, 'one')}, {_names(unique, 'other')}"
            " from gone as one inner join gone as other on one.id <> other.id order by one.id",
            [one, other],
        )

    def _inherit_unique(self, table: str) -> int:
        """Delete a row and give its unique values to another."""
        one, other = self._two(table)
        values = self._unique_values(table, one)
        if not values or self._is_scarce(table):
            return 0
        return self._delete_tree(table, one) and self._set(table, values, "id = %s", other)

    def _replace(self, table: str) -> int:
        """Delete a row and insert it again, in one statement."""
        columns = self.schema.tables[table]
        changed = self.random.choice(self._plain_columns(table))
        taken = (c.value if c == changed else f'"{c.name}"' for c in columns)
        return self._change(
            f"with gone as (delete from blytz_hire.{table} where id = %s returning *)"
            f" insert into blytz_hire.{table} select {', '.join(taken)} from gone",
            self._pick(table),
            self._value(table, changed),
        )

    def _come_and_go(self, table: str) -> int:
        """Insert, update and delete a row in one transaction."""
        id = self._new_id()
        return all(
            (
                self._insert(table, id=id),
                self._update(table, "id = %s", id),
                self._change(f"delete from blytz_hire.{table} where id = %s", id),
            )
        )

    def _chat_begins(self, table: str) -> int:
        return self._set(
            table,
            {"type": "chat_message", "data": self._message()},
            "id = (select id from blytz_hire.notifications where type <> 'chat_message'"
            " or data ->> 'senderId' is null order by md5(id || %s) limit 1)",
            self._salt(),
        )

    def _chat_ends(self, table: str) -> int:
        values = self.random.choice(
            (
                {"type": "system"},
                {"data": None},
                {"data": '{"senderId": ""}'},
                {"data": '{"senderId": 7, "senderName": "Ann"}'},
                {"type": "chat_message ", "data": '{"senderName": "Ann"}'},
            )
        )
        return self._set(table, values, f"id = {A_MESSAGE}", self._salt())

    def _chat_moves(self, table: str) -> int:
        values = self.random.choice(
            (
                {"userId": self._pick("users")},
                {"data": self._message()},
                {"userId": self._pick("users"), "data": self._message()},
                {"createdAt": self.random.choice(TIMES)},
            )
        )
        return self._set(table, values, f"id = {A_MESSAGE}", self._salt())

    def _chats_merge(self, table: str) -> int:
        """Give all of one user's messages to another user; their conversations merge."""
        return self._set(
            table,
            {"userId": self._pick("users")},
            f'"userId" = (select "userId" from blytz_hire.notifications where id = {A_MESSAGE})',
            self._salt(),
        )

    def _refund(self, table: str) -> int:
        values = self.random.choice(
            (
                {"refundAmount": self.random.choice(INTEGERS)},
                {"refundedAt": self.random.choice(TIMES)},
                {
                    "refundAmount": 1999,
                    "refundedAt": self.random.choice(TIMES),
                    "metadata": '{"refundReason": "späte Lieferung"}',
                },
            )
        )
        none = '"refundAmount" is null and "refundedAt" is null'
        return self._set(table, values, f"id = {_a_payment(none)}", self._salt())

    def _refund_vanishes(self, table: str) -> int:
        one = '"refundAmount" is not null or "refundedAt" is not null'
        values = {"refundAmount": None, "refundedAt": None}
        return self._set(table, values, f"id = {_a_payment(one)}", self._salt())

    def _dispute(self, table: str) -> int:
        reason = self.random.choice(("fraud", "", {"code": 13, "text": "late"}, "品質 🚀"))
        none = "metadata ->> 'disputeReason' is null"
        values = {"metadata": json.dumps({"disputeReason": reason, "refundReason": None})}
        return self._set(table, values, f"id = {_a_payment(none)}", self._salt())

    def _dispute_vanishes(self, table: str) -> int:
        one = "metadata ->> 'disputeReason' is not null"
        values = {"metadata": self.random.choice((None, '{"disputeReason": null}', "[]"))}
        return self._set(table, values, f"id = {_a_payment(one)}", self._salt())

    def _file(self, table: str) -> int:
        """Let the URL of a file appear, change or vanish."""
        columns = [
            column
            for column in self.schema.tables[table]
            if (table, column.name) in URL_COLUMNS or (table, column.name) == PROPOSED
        ]
        values = {column.name: self._value(table, column) for column in columns}
        return self._set(table, values, "id = %s", self._pick(table))

    # Statements

    def _change(self, statement: str, *values: Any) -> int:
        return self.connection.execute(statement, values).rowcount

    def _set(self, table: str, values: dict[str, Any], where: str, *of: Any) -> int:
        columns = {column.name: column for column in self.schema.tables[table]}
        changes = ", ".join(f'"{name}" = {columns[name].value}' for name in values)
        return self._change(
            f"update blytz_hire.{table} set {changes} where {where}", *values.values(), *of
        )

    def _ids(self, query: str, limit: int) -> list[str]:
        found = self.connection.execute(
            f"select id from ({query}) as one order by md5(id || %s) limit {limit}",
            (self._salt(),),
        )
        return [id for (id,) in found.fetchall()]

    def _any(self, query: str) -> str | None:
        return next(iter(self._ids(query, 1)), None)

    def _pick(self, table: str) -> str | None:
        return self._any(f"table blytz_hire.{table}")

    def _two(self, table: str) -> tuple[str | None, str | None]:
        one, other, *_ = [*self._ids(f"table blytz_hire.{table}", 2), None, None]
        return one, other

    def _unique_values(self, table: str, id: str | None) -> dict[str, Any]:
        unique = UNIQUE[table]
        row = self.connection.execute(
            f"select {_names(unique)} from blytz_hire.{table} where id = %s", (id,)
        ).fetchone()
        return dict(zip(unique, row, strict=True)) if row else {}

    def _is_scarce(self, table: str) -> bool:
        return len(self._ids(f"table blytz_hire.{table}", FEWEST)) < FEWEST

    # Values

    def _salt(self) -> str:
        return str(self.random.random())

    def _new_id(self) -> str:
        self.made += 1
        name = f"{self.seed}/{self.made}"
        return self.random.choice(
            (f"c{name}", f"Zoë № {name} 🚀", f"o'neil\\{name},\"", f"{name}:0")
        )

    def _plain_columns(self, table: str) -> list[Column]:
        """Columns that neither identify the row nor refer to another."""
        taken = {"id", *self.schema.references(table), *UNIQUE.get(table, ())}
        return [column for column in self.schema.tables[table] if column.name not in taken]

    def _refer_to(self, table: str) -> dict[str, Any]:
        """Choose what a row refers to, a unique choice where the key has to be unique."""
        if table in ("va_profiles", "companies"):
            return {"userId": self._any(FREE_USERS.format(table)) or self._parent("users")}
        references = self.schema.references(table)
        found: dict[str, Any] = {}
        if table == "matches":
            found, references = self._pair(FREE_PAIRS), {}
        elif table == "match_votes":
            self._parent("matches")
            found, references = self._pair(PAIRS), LOOSE[table]
        elif table == "reviews":
            found, references = {"targetId": self._any(TARGETS) or self._target()}, LOOSE[table]
        nullable = {column.name for column in self.schema.tables[table] if column.nullable}
        for column, parent in references.items():
            roll = self.random.random()
            if roll < 0.25 and column in nullable:
                found[column] = None
            elif roll < 0.4 and column in LOOSE.get(table, {}):
                found[column] = self._new_id()
            else:
                found[column] = self._parent(parent)
        return found

    def _pair(self, query: str) -> dict[str, Any]:
        row = self.connection.execute(
            f"select * from ({query}) as pair order by md5(pair::text || %s) limit 1",
            (self._salt(),),
        ).fetchone()
        return dict(zip(UNIQUE["matches"], row or (None, None), strict=True))

    def _parent(self, table: str) -> str | None:
        """Choose a row to refer to; make one where there is none."""
        found = None if table == "users" and self.random.random() < 0.1 else self._pick(table)
        if found is None:
            self._insert(table)
            found = self._pick(table)
        return found

    def _target(self) -> str | None:
        """Make a company with the id of a profile: only such may be reviewed."""
        id = self._parent("va_profiles")
        self._insert("companies", id=id)
        return id

    def _message(self) -> str:
        sender = self._pick("users") if self.random.random() < 0.9 else "nobody"
        told = {
            "senderId": sender,
            "senderName": self.random.choice(("Ann", "", None, 7)),
            "timestamp": self.random.choice(SENT),
            "type": self.random.choice(("text", "image", ["text"])),
            "size": 1.5,
        }
        extra = self.random.sample(sorted(told), self.random.randint(0, len(told)))
        return json.dumps({key: told[key] for key in {"senderId", *extra}})

    def _value(self, table: str, column: Column) -> Any:
        name = (table, column.name)
        if column.nullable and self.random.random() < 0.15:
            return None
        if name == PROPOSED:
            return self.random.choice(ATTACHMENTS)
        if name == ("notifications", "data") and self.random.random() < 0.5:
            return self._message()
        if name in URL_COLUMNS:
            return self.random.choice(URLS)
        if name in CHOICES:
            return self.random.choice(CHOICES[name])
        if column.kind == "text" and self.random.random() < 0.05:
            # too long to stand in its row, and sent only when it changes
            return f"{self.random.getrandbits(4 * 12000):x}"
        if column.kind == "text[]":
            return self.random.choices((None, *TEXTS), k=self.random.randint(0, 3))
        if column.kind == "jsonb[]":
            return self.random.choices((None, *DOCUMENTS), k=self.random.randint(0, 3))
        return self.random.choice(POOLS[column.kind])

    def _deck(self, cards: Sequence[str]) -> Iterator[str]:
        while True:
            yield from self.random.sample(cards, len(cards))


def _names(columns: Sequence[str], of: str = "") -> str:
    return ", ".join(f'{of}{"." if of else ""}"{column}"' for column in columns)


def _a_payment(such: str) -> str:
    return f"(select id from blytz_hire.payments where {such} order by md5(id || %s) limit 1)"


COLUMNS = """
    select relname, attname, format_type(atttypid, atttypmod), not attnotnull
    from pg_attribute
    inner join pg_class on pg_class.oid = attrelid
    where
        relkind = 'r' and relnamespace = 'blytz_hire'::regnamespace
        and attnum > 0 and not attisdropped
    order by relname, attnum
"""
FOREIGN_KEYS = """
    select
        child.relname,
        parent.relname,
        array(
            select attname from unnest(conkey) with ordinality as key (attnum, place)
            inner join pg_attribute using (attnum) where attrelid = conrelid order by place
        ),
        array(
            select attname from unnest(confkey) with ordinality as key (attnum, place)
            inner join pg_attribute using (attnum) where attrelid = confrelid order by place
        ),
        confdeltype = 'n'
    from pg_constraint
    inner join pg_class as child on child.oid = conrelid
    inner join pg_class as parent on parent.oid = confrelid
    where contype = 'f' and connamespace = 'blytz_hire'::regnamespace
    order by conname
"""
FREE_USERS = """
    select id from blytz_hire.users except select "userId" from blytz_hire.{}
"""
PAIRS = 'select "jobPostingId", "vaProfileId" from blytz_hire.matches'
FREE_PAIRS = f"""
    select job_postings.id, va_profiles.id
    from blytz_hire.job_postings cross join blytz_hire.va_profiles
    except {PAIRS}
"""
# Both foreign keys of a review's target hold.
TARGETS = """
    select id from blytz_hire.va_profiles intersect select id from blytz_hire.companies
"""
PROPOSED = ("proposals", "attachments")
A_MESSAGE = (
    "(select id from blytz_hire.notifications where type = 'chat_message'"
    " and data ->> 'senderId' <> '' order by md5(id || %s) limit 1)"
)
POOLS: dict[str, Sequence[Any]] = {
    "text": TEXTS,
    "integer": INTEGERS,
    "double precision": DOUBLES,
    "boolean": (True, False),
    "timestamp(3) without time zone": TIMES,
    "jsonb": DOCUMENTS,
}
SPELLINGS = {"double precision": ("0", "-0"), "jsonb": ('{"n": 1.1}', '{"n": 1.10}')}
CHOICES: dict[tuple[str, str], Sequence[Any]] = {
    ("users", "role"): ("va", "company", "admin"),
    ("job_postings", "rateRange"): RATES,
    ("notifications", "type"): TYPES,
    ("reviews", "targetType"): ("va", "company", "VA", ""),
}
# How often, and on which tables; none means all.
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "insert": (10, ()),
    "update": (8, ()),
    "update many": (1, ()),
    "respell": (3, ()),
    "refer": (4, ()),
    "delete": (3, ()),
    "delete with dependants": (1, ()),
    "rekey": (2, ()),
    "swap keys": (1, ()),
    "swap unique": (2, tuple(UNIQUE)),
    "swap unique in one statement": (1, tuple(UNIQUE)),
    "inherit unique": (1, tuple(UNIQUE)),
    "replace": (1, ()),
    "come and go": (1, ()),
    "chat begins": (1, ("notifications",)),
    "chat ends": (1, ("notifications",)),
    "chat moves": (1, ("notifications",)),
    "chats merge": (1, ("notifications",)),
    "refund": (1, ("payments",)),
    "refund vanishes": (1, ("payments",)),
    "dispute": (1, ("payments",)),
    "dispute vanishes": (1, ("payments",)),
    "file": (2, ("portfolio_items", "va_profiles", "companies", "proposals")),
}
SCOPES = (
    "empty transaction",
    "rollback",
    "savepoint rolled back",
    "savepoint rolled back in a savepoint",
    "truncate",
    "truncate with dependants",
)
