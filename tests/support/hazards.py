"""Hazards in a monolith, with the SQL statements that cause them."""

from __future__ import annotations

ODD = """<script>alert('x')</script> "&" \x1b[31m 表"""
QUOTED = '"' + ODD.replace('"', '""') + '"'

# For each hazard what makes one, where it is found, and a part of what to do.
INJECTED = [
    ("table is missing", "drop table blytz_hire.badges", "blytz_hire.badges", "Create it"),
    (
        "table that nobody owns",
        f'create table blytz_hire.{QUOTED} (id text, "b<i>" text)',
        ODD.replace('"', '""'),
        "models/_sources.yml",
    ),
    (
        "no primary key",
        "alter table blytz_hire.skills_assessments drop constraint skills_assessments_pkey",
        "blytz_hire.skills_assessments",
        "ALTER TABLE blytz_hire.skills_assessments ADD PRIMARY KEY (id);",
    ),
    (
        "no primary key",
        "alter table blytz_hire.timesheets drop constraint timesheets_pkey,"
        " add primary key (id) deferrable",
        "blytz_hire.timesheets",
        "DROP CONSTRAINT timesheets_pkey, ADD PRIMARY KEY (id);",
    ),
    (
        "replica identity",
        "alter table blytz_hire.invoices replica identity full",
        "blytz_hire.invoices",
        "ALTER TABLE blytz_hire.invoices REPLICA IDENTITY DEFAULT;",
    ),
    (
        "unlogged table",
        "alter table blytz_hire.portfolio_items set unlogged",
        "blytz_hire.portfolio_items",
        "ALTER TABLE blytz_hire.portfolio_items SET LOGGED;",
    ),
    (
        "foreign table",
        "drop table blytz_hire.match_votes; create foreign data wrapper away;"
        " create server away foreign data wrapper away;"
        ' create foreign table blytz_hire.match_votes (id text, "userId" text) server away',
        "blytz_hire.match_votes",
        "AS TABLE blytz_hire.match_votes",
    ),
    (
        "partitioned table",
        "create table blytz_hire.parted (like blytz_hire.reviews) partition by hash (id);"
        " drop table blytz_hire.reviews; alter table blytz_hire.parted rename to reviews;"
        " alter table blytz_hire.reviews add primary key (id);"
        " create table blytz_hire.reviews_0 partition of blytz_hire.reviews"
        " for values with (modulus 1, remainder 0)",
        "blytz_hire.reviews",
        "one ordinary table",
    ),
    (
        "inherited table",
        "create table blytz_hire.old_users () inherits (blytz_hire.users)",
        "blytz_hire.old_users",
        "NO INHERIT blytz_hire.users;",
    ),
    (
        "row-level security",
        "alter table blytz_hire.jobs enable row level security;"
        " create policy mine on blytz_hire.jobs using (true)",
        "blytz_hire.jobs",
        "pg_policies",
    ),
    (
        "never analyzed",
        "create table blytz_hire.young (id text)",
        "blytz_hire.young",
        "ANALYZE blytz_hire.young;",
    ),
    (
        "column that nobody owns",
        'alter table blytz_hire.users add column "näme <b>" text',
        'blytz_hire.users."näme <b>"',
        "seeds/column_ownership.csv",
    ),
    (
        "column is missing",
        "alter table blytz_hire.companies drop column mission",
        "blytz_hire.companies.mission",
        "ALTER TABLE blytz_hire.companies ADD COLUMN mission text;",
    ),
    (
        "column of another type",
        'alter table blytz_hire.companies alter "foundedYear" type bigint',
        'blytz_hire.companies."foundedYear"',
        'ALTER COLUMN "foundedYear" TYPE integer;',
    ),
    (
        "numbers from a sequence",
        "alter table blytz_hire.companies add column nr serial",
        "blytz_hire.companies.nr",
        "pg_get_serial_sequence('blytz_hire.companies', 'nr')",
    ),
    (
        "numbers from a sequence",
        "alter table blytz_hire.companies add column nr2 integer generated always as identity",
        "blytz_hire.companies.nr2",
        "SELECT max(nr2)",
    ),
    (
        "generated column",
        "alter table blytz_hire.users add column loud text"
        " generated always as (upper(email)) stored",
        "blytz_hire.users.loud",
        "ALTER COLUMN loud DROP EXPRESSION;",
    ),
    (
        "column of large objects",
        "alter table blytz_hire.users add column picture oid",
        "blytz_hire.users.picture",
        "lo_get(picture)",
    ),
    ("large objects", "select lo_create(0)", "pg_largeobject", "pg_largeobject_metadata"),
    (
        "enum",
        "create type blytz_hire.mood as enum ('good');"
        " alter table blytz_hire.users add column moods blytz_hire.mood[]",
        "blytz_hire.users.moods",
        "TYPE text",
    ),
    (
        "domain",
        "create domain blytz_hire.code as text;"
        " alter table blytz_hire.users add column code blytz_hire.code",
        "blytz_hire.users.code",
        "TYPE text",
    ),
    (
        "type of an extension",
        "create extension citext schema public;"
        " alter table blytz_hire.companies alter name type public.citext",
        "blytz_hire.companies.name",
        "TYPE text",
    ),
    (
        "type of the monolith's own",
        "create type blytz_hire.pair as (a text, b text);"
        " alter table blytz_hire.users add column pair blytz_hire.pair",
        "blytz_hire.users.pair",
        "TYPE text",
    ),
    (
        "ON DELETE CASCADE across services",
        'alter table blytz_hire.payments drop constraint "payments_userId_fkey",'
        ' add constraint "payments_userId_fkey" foreign key ("userId")'
        " references blytz_hire.users (id) on delete cascade",
        'blytz_hire.payments ("userId")',
        "tag:parity",
    ),
    (
        "key was never validated",
        'update blytz_hire.contracts set "proposalId" = null;'
        " alter table blytz_hire.contracts add constraint doubtful"
        " foreign key (id) references blytz_hire.proposals (id) not valid",
        "doubtful on blytz_hire.contracts",
        "VALIDATE CONSTRAINT doubtful;",
    ),
    (
        "rows that refer to nothing",
        "select 1",  # the key above does
        "blytz_hire.contracts (id)",
        "not exists (select from blytz_hire.proposals",
    ),
    (
        "rows that refer to nothing",
        "update blytz_hire.payments set \"receiverId\" = 'ghost'",
        "blytz_hire.payments (receiverId)",
        "not exists (select from blytz_hire.users",
    ),
    (
        "deferrable constraint",
        "alter table blytz_hire.users add constraint late unique (email) deferrable",
        "late on blytz_hire.users",
        "DROP CONSTRAINT late, ADD UNIQUE (email);",
    ),
    (
        "exclusion constraint",
        "alter table blytz_hire.jobs add constraint no_twins exclude using btree (id with =)",
        "no_twins on blytz_hire.jobs",
        "ADD CONSTRAINT no_twins EXCLUDE",
    ),
    (
        "trigger",
        "create function public.quiet() returns trigger language plpgsql"
        " as 'begin return new; end';"
        " create trigger hush before update on blytz_hire.users"
        " for each row execute function public.quiet()",
        "hush on blytz_hire.users",
        "CREATE TRIGGER hush",
    ),
    (
        "rule",
        "create rule never as on delete to blytz_hire.users do instead nothing",
        "never on blytz_hire.users",
        "CREATE RULE never",
    ),
    (
        "event trigger",
        "create function public.watch() returns event_trigger language plpgsql"
        " as 'begin end'; create event trigger watch on ddl_command_end"
        " execute function public.watch()",
        "watch",
        "ALTER EVENT TRIGGER watch DISABLE;",
    ),
    (
        "view across services",
        "create view public.inner_view as select id from blytz_hire.payments;"
        " create view public.outer_view as select id from public.inner_view"
        " union select id from blytz_hire.jobs",
        "public.outer_view",
        "ask the others",
    ),
    (
        "materialized view across services",
        "create materialized view public.kept as"
        " select p.id from blytz_hire.payments p, blytz_hire.users u",
        "public.kept",
        "ask the others",
    ),
    (
        "function across services",
        "create function public.told() returns bigint language plpgsql as"
        " 'begin return (select count(*) from blytz_hire.payments p"
        " join blytz_hire.users u on true); end'",
        "public.told()",
        "ask the others",
    ),
    (
        "function across services",
        "create function public.known() returns bigint begin atomic select count(*)"
        " from blytz_hire.contracts c, blytz_hire.jobs j; end",
        "public.known()",
        "ask the others",
    ),
]
