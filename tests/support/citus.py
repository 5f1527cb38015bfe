"""A stand-in for Citus, which is not to be had here, and tables with all that Citus refuses."""

from __future__ import annotations

# It refuses what Citus refuses, in its words, as create_distributed_table.c, foreign_constraint.c
# and table.c of Citus' source do. It keeps what it was asked for, and distributes nothing.
CITUS = b"""
set allow_system_table_mods = on;

create schema citus_kept;

create table citus_kept.tables (
    relation regclass primary key,
    kind text not null,
    place smallint,
    column_type oid,
    colocation_id integer not null
);

create function citus_kept.refuse_triggers(relation regclass) returns void
language plpgsql as $$
begin
    if exists (select from pg_trigger where tgrelid = relation and not tgisinternal) then
        raise 'cannot distribute relation "%" because it has triggers', relation;
    end if;
end $$;

create function citus_kept.refuse_keys(relation regclass, place smallint) returns void
language plpgsql as $$
declare
    one record;
begin
    for one in
        select indexes.*, conexclop
        from pg_index as indexes
        left join pg_constraint on conindid = indexrelid and contype = 'x'
        where indrelid = relation and (indisunique or conexclop is not null)
    loop
        for i in 0 .. one.indnkeyatts - 1 loop
            if one.indkey[i] = place and (
                one.conexclop is null
                or (select oprname from pg_operator where oid = one.conexclop[i + 1]) = '='
            ) then
                place := -place;
            end if;
        end loop;
        if place > 0 then
            raise 'cannot create constraint on "%"', relation using detail =
                'Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that'
                ' do not include the partition column (with an equality operator if EXCLUDE).';
        end if;
        place := abs(place);
    end loop;
end $$;

create function citus_kept.refuse_foreign_keys(child citus_kept.tables) returns void
language plpgsql as $$
declare
    one record;
    parent citus_kept.tables;
begin
    for one in select * from pg_constraint where conrelid = child.relation and contype = 'f' loop
        select * into parent from citus_kept.tables where relation = one.confrelid;
        if one.confrelid = child.relation then
            parent := child;
        end if;
        if parent is null then
            if child.kind = 'distributed' then
                raise 'referenced table "%" must be a distributed table or a reference table',
                    one.confrelid::regclass;
            elsif format('%s%s', one.confdeltype, one.confupdtype) ~ '[^ar]' then
                raise 'foreign keys from reference tables to local tables can only be defined'
                    ' with NO ACTION or RESTRICT behaviors';
            end if;
            continue;
        end if;
        if child.kind = 'reference' then
            if parent.kind = 'distributed' then
                raise 'foreign keys from reference tables to distributed tables are not supported';
            end if;
            continue;
        end if;
        if parent.kind = 'distributed' and parent.colocation_id <> child.colocation_id then
            raise 'relations are not colocated or not referencing a reference table';
        end if;
        if child.place = any(one.conkey)
            and (one.confdeltype in ('n', 'd') or one.confupdtype in ('n', 'd', 'c'))
        then
            raise 'SET NULL, SET DEFAULT or CASCADE is not supported when distribution key is'
                ' included in the foreign key constraint';
        end if;
        if parent.kind = 'distributed' and not coalesce(
            array_position(one.conkey, child.place) = array_position(one.confkey, parent.place),
            false
        ) then
            raise 'Foreign keys are supported in two cases, either in between two colocated tables'
                ' including partition column in the same ordinal in the both tables or from'
                ' distributed to reference tables';
        end if;
    end loop;
end $$;

create function pg_catalog.create_reference_table(table_name regclass) returns void
language plpgsql as $$
begin
    if (select relkind from pg_class where oid = table_name) <> 'r' then
        raise 'distributing partitioned tables in only supported for hash-distributed tables';
    end if;
    perform citus_kept.refuse_triggers(table_name);
    perform citus_kept.refuse_foreign_keys(row(table_name, 'reference', null, null, 0));
    insert into citus_kept.tables values (table_name, 'reference', null, null, 0);
end $$;

create function pg_catalog.create_distributed_table(
    table_name regclass, distribution_column text, colocate_with text default 'default'
) returns void
language plpgsql as $$
declare
    made citus_kept.tables;
    part regclass;
begin
    select table_name, 'distributed', attnum, atttypid, 1 + (select count(*) from citus_kept.tables)
    into made
    from pg_attribute
    where attrelid = table_name and attname = distribution_column and attgenerated = '';
    if not found then
        raise 'column "%" of relation "%" does not exist', distribution_column, table_name;
    end if;
    if colocate_with not in ('none', 'default') then
        select colocation_id into strict made.colocation_id
        from citus_kept.tables
        where relation = colocate_with::regclass and column_type = made.column_type;
    end if;
    for part in select table_name union select relid from pg_partition_tree(table_name) loop
        perform citus_kept.refuse_triggers(part);
        perform citus_kept.refuse_keys(part, (
            select attnum from pg_attribute where attrelid = part and attname = distribution_column
        ));
    end loop;
    perform citus_kept.refuse_foreign_keys(made);
    insert into citus_kept.tables select made.*;
end $$;

insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
select
    'citus_kept'::regnamespace,
    'citus',
    'postgres'::regrole,
    'citus_kept'::regnamespace,
    false,
    'stand-in';
"""

# What a team may have made in its schema by then.
HAZARDS = b"""
set search_path to payments_db, public;

create table currencies (code text primary key, name text unique);
create table rates (id int primary key, code text not null references currencies on delete cascade);
create table tenants (
    id text primary key, slug text not null unique, currency text references currencies
);
create table orders (
    id bigint generated always as identity,
    tenant_id text not null references tenants,
    "Number" text not null,
    placed date not null,
    email text,
    twice bigint generated always as (1) stored not null,
    primary key (id, placed),
    unique nulls not distinct ("Number", placed)
) partition by range (placed);
create table orders_2025 partition of orders for values from ('2025-01-01') to ('2026-01-01');
create unique index orders_2025_email on orders_2025 (lower(email)) where email is not null;
create table lines (
    id text,
    tenant_id text not null references tenants on update cascade,
    parent text,
    during int4range,
    note text unique deferrable initially deferred,
    currency text references currencies on delete set null,
    primary key (tenant_id, id),
    unique (id),
    foreign key (tenant_id, parent) references lines on delete cascade,
    foreign key (parent) references lines (id) on delete set null,
    exclude using gist (during with &&)
);
create table audits (
    id int primary key, line text references lines (id), code text references currencies
);
create table imports (
    id int primary key, tenant_id int not null, audit int references audits
);
create table regions (id int primary key, tenant text references tenants, audit int
    references audits on delete cascade, mate int references regions);
create function stamp() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger stamped before update on orders for each row execute function stamp();
create trigger named before insert on currencies for each row execute function stamp();
"""
