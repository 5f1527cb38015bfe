"""Reading a schema.prisma, and naming what has no name yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgsplit.observe.prisma import present
from pgsplit.observe.prisma.models import field_name, model_name
from pgsplit.observe.prisma.tables import Column, Enum, identifier, prisma_type

SCHEMA = """
/* A block comment with a { brace and
   model Nobody { id Int } */
generator client { provider = "prisma-client-js" }
generator zod {
  provider = "zod" // trailing { comment
  previewFeatures = ["a",
    "b"]
}
datasource db { provider = "postgres"
  url = env("DATABASE_URL") }
model Order {
  /// The key; it has a } and a "
  id      String @id @default(cuid())
  note    String? @default("a } b // no comment, \\"quoted\\"") @map("a_note")
  tags    String[]
  status  Status @default(NEW)
  place   Unsupported("point")?
  buyerId String
  sellerId String
  buyer   User @relation("Bought", fields: [buyerId],
    references: [id], onDelete: Cascade)
  seller  User @relation(fields: [sellerId], references: [id], name: "Sold")
  @@unique([buyerId, sellerId(sort: Desc)], name: "pair")
  @@map(name: "orders")
}
model User {
  id String @id
  bought Order[] @relation("Bought")
  sold Order[] @relation("Sold")
}
enum Status {
  NEW  @map("new one")
  DONE // over
  @@map("order_status")
}
"""


def test_a_schema_is_read_as_prisma_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "schema.prisma"
    path.write_text(SCHEMA)
    found = present.read(path)
    assert [*found.models] == ["Order", "User"]
    order = found.models["Order"]
    assert (order.table, found.by_table["orders"]) == ("orders", order)
    assert [*order.fields] == [
        *("id", "note", "tags", "status", "place", "buyerId", "sellerId", "buyer", "seller")
    ]
    note = order.fields["note"]
    assert (note.column, note.type, note.is_optional) == ("a_note", "String", True)
    default = note.get("default")
    assert default and present.unquoted(default.text) == 'a } b // no comment, "quoted"'
    assert order.fields["tags"].is_list
    assert order.fields["place"].type == 'Unsupported("point")'
    buyer, seller = (order.fields[name] for name in ("buyer", "seller"))
    relation = buyer.get("relation")
    assert relation and relation.names("fields") == ("buyerId",)
    assert found.relations(order) == [buyer, seller]
    assert found.opposite(order, buyer) is found.models["User"].fields["bought"]
    assert found.opposite(order, seller) is found.models["User"].fields["sold"]
    (unique,) = (one for one in order.attributes if one.name == "unique")
    assert unique.names("fields", is_first=True) == ("buyerId", "sellerId")
    assert unique.argument("name") == '"pair"'
    status = found.enums["Status"]
    assert (status.type, status.values) == ("order_status", {"new one": "NEW", "DONE": "DONE"})
    assert [(one.kind, one.name) for one in found.blocks] == [
        ("generator", "client"),
        ("generator", "zod"),
        ("datasource", "db"),
    ]
    assert found.blocks[1].settings["previewFeatures"] == '["a", "b"]'


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("job_postings", "JobPosting"),
        ("companies", "Company"),
        ("matches", "Match"),
        ("addresses", "Address"),
        ("statuses", "Status"),
        ("boxes", "Box"),
        ("houses", "House"),
        ("status", "Status"),
        ("file_metadata", "FileMetadata"),
        ("2nd things", "NdThing"),
        ("_hidden", "Hidden"),
        ("Order", "Order"),
    ],
)
def test_a_model_is_named_in_singular(table: str, model: str) -> None:
    assert model_name(table) == model


def test_names_are_such_as_prisma_accepts() -> None:
    assert field_name("sender_id") == "senderId"
    assert field_name("placedAt") == "placedAt"
    assert identifier("1st key") == "st_key"
    assert identifier("größe") == "gr__e"
    assert identifier("__") == "unnamed"


@pytest.mark.parametrize(
    ("type_", "before", "prisma"),
    [
        ("text", "", ("String", "")),
        ("character varying(20)", "", ("String", "@db.VarChar(20)")),
        ("numeric(12,2)", "", ("Decimal", "@db.Decimal(12, 2)")),
        ("numeric", "double precision", ("Float", "")),
        ("numeric", "integer", ("Decimal", "@db.Decimal")),
        ("timestamp(3) without time zone", "", ("DateTime", "")),
        ("timestamp without time zone", "", ("DateTime", "@db.Timestamp(6)")),
        ("timestamp(3) with time zone", "", ("DateTime", "@db.Timestamptz(3)")),
        ("jsonb[]", "", ("Json", "")),
        ("bigint", "integer", ("BigInt", "")),
        ("int4range", "", ('Unsupported("int4range")', "")),
        ('other."My Type"[]', "", ('Unsupported("other.\\"My Type\\"")', "")),
    ],
)
def test_a_type_is_said_in_prisma_s_words(type_: str, before: str, prisma: tuple[str, str]) -> None:
    assert prisma_type(type_, before) == prisma


@pytest.mark.parametrize(
    ("type_", "default", "text"),
    [
        ("text", "'it''s'::text", '"it\'s"'),
        ("text", "lower('A'::text)", "dbgenerated(\"lower('A'::text)\")"),
        ("integer", "'-1'::integer", "-1"),
        ("integer", "(2 + 3)", 'dbgenerated("(2 + 3)")'),
        ("numeric(5,2)", "0.50", "0.50"),
        ("integer", "0.5", 'dbgenerated("0.5")'),
        ("boolean", "true", "true"),
        ("timestamp(3) without time zone", "CURRENT_TIMESTAMP(3)", "now()"),
        ("timestamp with time zone", "clock_timestamp()", 'dbgenerated("clock_timestamp()")'),
        ("jsonb", "'{\"a\": 1}'::jsonb", '"{\\"a\\": 1}"'),
        ("text[]", "'{}'::text[]", "[]"),
        ("text[]", "'{a}'::text[]", "dbgenerated(\"'{a}'::text[]\")"),
        ("text", None, ""),
    ],
)
def test_a_default_is_said_in_prisma_s_words(type_: str, default: str | None, text: str) -> None:
    column = Column("c", type_, None, type_.endswith("[]"), False, False, False, default)
    assert column.prisma_default(prisma_type(type_)[0]) == text


def test_an_enum_s_default_is_its_value() -> None:
    mood = Enum("mood", "app", ("so so",))
    column = Column("c", "app.mood", mood, False, True, False, False, "'so so'::app.mood")
    assert column.prisma_default("mood") == "so so"
