{#
    What somebody else owns, or may change, of what this project is about to use in a database. Each row of
    both queries says what was found, and the statement that fixes it. They read the catalogue only, so they
    run nobody's code:

        ours(mark, schemas, own) ~ owned_by_strangers(mark, streams)
        ours(mark, schemas, own) ~ run_by_readers(reads)

    | argument | example                                     | meaning                                     |
    |----------|---------------------------------------------|---------------------------------------------|
    | mark     | 'made by the shop split for ordering'       | the comment on the owner role; '' if none   |
    | schemas  | array['split', 'audit', 'shop', 'owner']    | where everything has to be ours             |
    | own      | 'ordering'                                  | a schema that has to be ours; '' if none    |
    | streams  | array['split_ordering']                     | names of publications and subscriptions     |
    | reads    | 'shop'                                      | a schema whose tables are only read         |

    Arguments are SQL. pgsplit/project/strangers.py runs these queries too, and fills in the arguments
    without Jinja, which takes longer to start than both queries. So these three macros have no logic.
#}


{#
    mark_of_service(): SQL that gives the mark of the service whose database this is, if the owner of database
    and schema bears it and this login is its member; '' otherwise. It may be another project's monolith.
#}
{% macro mark_of_service() %}
    coalesce(
        (
            select obj_description(schema.oid, 'pg_namespace')
            from pg_catalog.pg_namespace as schema
            inner join pg_catalog.pg_database as database on database.datdba = schema.nspowner
            where
                schema.nspname = 'split' and database.datname = current_database()
                and obj_description(schema.oid, 'pg_namespace') ~ '^made by the .+ split for .+$'
                and obj_description(schema.oid, 'pg_namespace') = shobj_description(schema.nspowner, 'pg_authid')
                and pg_has_role(schema.nspowner, 'usage')
        ),
        ''
    )
{% endmacro %}


{#
    ours(mark, schemas, own): the roles that are ours, the beginning of a query. These are superusers, this
    login, the owner role with the mark, and roles that this login or a superuser has made this login a member
    of, unless they own anything else in the database: that would be the role of an application.
#}
{% macro ours(mark, schemas, own) %}
    with recursive roles as (
        select oid, rolname, rolsuper, rolcanlogin, rolcreaterole from pg_catalog.pg_roles
    ),

    memberships as (
        select roleid, member, grantor from pg_catalog.pg_auth_members
    ),

    me as (
        select oid, rolname from roles where rolname = current_user
    ),

    here as (
        select oid, datname, datdba from pg_catalog.pg_database where datname = current_database()
    ),

    wanted as (
        select oid, nspname, nspowner, nspacl, nspname = any({{ schemas }}) as is_whole
        from pg_catalog.pg_namespace
        where nspname = any({{ schemas }} || {{ own }}::name)
    ),

    service_owner as (
        select oid, rolname from roles
        where not rolcanlogin and {{ mark }} <> '' and shobj_description(oid, 'pg_authid') = {{ mark }}
    ),

    ours as (
        select oid from roles where rolsuper
        union
        select oid from me
        union
        select oid from service_owner
        union
        select member.roleid
        from memberships as member
        inner join me on me.oid = member.member
        inner join roles as grantor on grantor.oid = member.grantor
        where
            (grantor.oid = me.oid or grantor.rolsuper)
            and member.roleid not in (select datdba from here)
            and not exists (
                select from pg_catalog.pg_class as class
                where
                    class.relowner = member.roleid
                    and class.relnamespace not in (select oid from wanted)
                    and class.relkind not in ('i', 'I', 't')
            )
    )
{% endmacro %}


{#
    owned_by_strangers(mark, streams): the end of a query for objects of strangers where all have to be ours, and
    for what strangers may change of ours.
#}
{% macro owned_by_strangers(mark, streams) %}
    ,

    -- The owner role's members act as it.
    members as (
        select member.member as oid, service_owner.rolname as owner
        from memberships as member
        inner join service_owner on service_owner.oid = member.roleid
        union
        select member.member as oid, members.owner
        from memberships as member
        inner join members on members.oid = member.roleid
    ),

    relations as (
        select
            class.oid, class.relname, class.relowner, class.relacl, class.relkind,
            format('%I.%I', wanted.nspname, class.relname) as name,
            case class.relkind
                when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                when 'f' then 'foreign table' when 'c' then 'type' else 'table'
            end as kind
        from wanted
        inner join pg_catalog.pg_class as class on class.relnamespace = wanted.oid
        where wanted.is_whole and class.relkind not in ('i', 'I', 't')
    ),

    owned as (
        select 'schema' as kind, quote_ident(nspname) as name, nspowner as owner from wanted
        union all
        select kind, name, relowner from relations
        union all
        select
            case proc.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
            format(
                '%I.%I(%s)', wanted.nspname, proc.proname, pg_get_function_identity_arguments(proc.oid)
            ),
            proc.proowner
        from wanted
        inner join pg_catalog.pg_proc as proc on proc.pronamespace = wanted.oid
        where wanted.is_whole
        union all
        select
            case type.typtype when 'd' then 'domain' else 'type' end,
            format('%I.%I', wanted.nspname, type.typname),
            type.typowner
        from wanted
        inner join pg_catalog.pg_type as type on type.typnamespace = wanted.oid
        where wanted.is_whole and type.typrelid = 0 and type.typelem = 0
        union all
        select 'publication', quote_ident(pubname), pubowner
        from pg_catalog.pg_publication
        where pubname = any({{ streams }})
        union all
        select 'subscription', quote_ident(subname), subowner
        from pg_catalog.pg_subscription
        where subdbid = (select oid from here) and subname = any({{ streams }})
        union all
        select 'database', quote_ident(datname), datdba from here where {{ mark }} <> ''
    ),

    granted as (
        select format('schema %I', wanted.nspname) as name, entry.privilege_type, entry.grantee
        from wanted, aclexplode(wanted.nspacl) as entry
        where entry.privilege_type = 'CREATE'
        union all
        select
            case relations.relkind when 'S' then 'sequence ' else 'table ' end || relations.name,
            entry.privilege_type,
            entry.grantee
        from relations, aclexplode(relations.relacl) as entry
        where entry.privilege_type not in ('SELECT', 'USAGE')
        union all
        select 'table ' || relations.name, entry.privilege_type, entry.grantee
        from relations
        inner join pg_catalog.pg_attribute as part on part.attrelid = relations.oid, aclexplode(part.attacl) as entry
        where part.attacl is not null and entry.privilege_type <> 'SELECT'
    ),

    found as (
        select
            1 as place,
            format('the %s %s belongs to %I', owned.kind, owned.name, pg_get_userbyid(owned.owner)) as what,
            case owned.kind
                when 'schema' then format('alter schema %s rename to %I;', owned.name, 'somebodys_' || owned.name)
                else format('alter %s %s owner to %I;', owned.kind, owned.name, me.rolname)
            end || format(' or, if %1$I is one of your own logins: grant %1$I to %2$I;', pg_get_userbyid(owned.owner), me.rolname)
            as fix
        from owned, me
        where owned.owner not in (select oid from ours)
        union all
        select
            2,
            format('%I is a member of %I', pg_get_userbyid(members.oid), members.owner),
            format(
                'revoke %1$I from %2$I; or, if %2$I is one of your own logins: grant %2$I to %3$I;',
                members.owner, role.rolname, me.rolname
            )
        from members
        inner join roles as role on role.oid = members.oid
        cross join me
        where members.oid not in (select oid from ours) and not role.rolcreaterole
        union all
        select
            3,
            format(
                'the trigger %I on %s calls %s of %I', tgname, relations.name, proc.oid::regproc,
                pg_get_userbyid(proc.proowner)
            ),
            format('drop trigger %I on %s;', tgname, relations.name)
        from relations
        inner join pg_catalog.pg_trigger on tgrelid = relations.oid
        inner join pg_catalog.pg_proc as proc on proc.oid = tgfoid
        where not tgisinternal and proc.proowner not in (select oid from ours)
        union all
        select
            4,
            format(
                '%s may %s %s',
                case when grantee = 0 then 'everybody' else quote_ident(pg_get_userbyid(grantee)) end,
                lower(privilege_type), case privilege_type when 'CREATE' then 'in the ' else 'the ' end || name
            ),
            format(
                'revoke %s on %s from %s;', lower(privilege_type), name,
                case when grantee = 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
            )
        from granted
        where grantee not in (select oid from ours)
    )

    select what, fix from found order by place, what
{% endmacro %}


{#
    run_by_readers(reads): the end of a query for functions of strangers that whoever reads a table runs: those of
    its partial indexes, checks and statistics, and of those that inherit from it, while PostgreSQL plans.
#}
{% macro run_by_readers(reads) %}
    ,

    -- Whoever reads a table reads its partitions and the tables that inherit from it, too, in any schema.
    read as (
        select class.oid
        from pg_catalog.pg_class as class
        inner join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
        where namespace.nspname = {{ reads }} and class.relkind in ('r', 'p', 'f')
        union
        select inherits.inhrelid
        from pg_catalog.pg_inherits as inherits
        inner join read on read.oid = inherits.inhparent
    ),

    -- The types of their columns, and what those are made of.
    types as (
        select part.atttypid as oid
        from pg_catalog.pg_attribute as part
        inner join read on read.oid = part.attrelid
        where part.attnum > 0 and not part.attisdropped
        union
        select inside.oid
        from types
        inner join pg_catalog.pg_type as type on type.oid = types.oid
        left join pg_catalog.pg_range as ranges on types.oid in (ranges.rngtypid, ranges.rngmultitypid)
        cross join lateral (
            values (type.typbasetype), (type.typelem), (ranges.rngsubtype)
            union all
            select part.atttypid
            from pg_catalog.pg_attribute as part
            where part.attrelid = type.typrelid and part.attnum > 0 and not part.attisdropped
        ) as inside (oid)
        where inside.oid <> 0
    ),

    -- PostgreSQL expects thousands of rows of a recursion and prepares for them, and ten of an array.
    tables as (
        select unnest(array(select oid from read)) as oid
    ),

    kinds as (
        select unnest(array(select oid from types)) as oid
    ),

    checks as (
        select rule.oid, rule.conbin::text as expression
        from tables
        inner join pg_catalog.pg_constraint as rule on rule.conrelid = tables.oid
        where rule.contype = 'c'
        union all
        select rule.oid, rule.conbin::text
        from kinds
        inner join pg_catalog.pg_constraint as rule on rule.contypid = kinds.oid
        where rule.contype = 'c'
    ),

    -- Indexes, checks, statistics, partition keys and generated columns of tables that are only read, with
    -- their functions, and those of casts. A dry run restores a copy, and so works out checks and generated
    -- columns.
    planned as (
        select distinct dependency.classid, dependency.objid, coalesce(operator.oprcode, dependency.refobjid) as function
        from (
            select 'pg_class'::regclass as classid, index.indexrelid as objid
            from tables
            inner join pg_catalog.pg_index as index on index.indrelid = tables.oid
            union all
            select 'pg_class'::regclass, part.partrelid
            from tables
            inner join pg_catalog.pg_partitioned_table as part on part.partrelid = tables.oid
            union all
            select 'pg_constraint'::regclass, oid from checks
            union all
            select 'pg_statistic_ext'::regclass, statistics.oid
            from tables
            inner join pg_catalog.pg_statistic_ext as statistics on statistics.stxrelid = tables.oid
            union all
            select 'pg_attrdef'::regclass, value.oid
            from tables
            inner join pg_catalog.pg_attrdef as value on value.adrelid = tables.oid
            inner join pg_catalog.pg_attribute as part on part.attrelid = value.adrelid and part.attnum = value.adnum
            where part.attgenerated <> ''
            union all
            -- PostgreSQL finds casts by their types, whatever the search path is.
            select 'pg_cast'::regclass, casts.oid
            from kinds
            inner join pg_catalog.pg_cast as casts on kinds.oid in (casts.castsource, casts.casttarget)
        ) as part
        inner join pg_catalog.pg_depend as dependency
            on dependency.classid = part.classid and dependency.objid = part.objid
            and dependency.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
        left join pg_catalog.pg_operator as operator
            on dependency.refclassid = 'pg_operator'::regclass and operator.oid = dependency.refobjid
    ),

    -- Functions of PostgreSQL and of extensions that do something, or run what they are given, with the
    -- rights of whoever writes a row. No dependency on PostgreSQL's own is recorded.
    powerful as (
        select distinct checks.oid, proc.oid as function
        from checks
        cross join lateral regexp_matches(checks.expression, ':(?:op)?funcid (\d+)', 'g') as called (function)
        inner join pg_catalog.pg_proc as proc on proc.oid = called.function[1]::oid
        where
            (proc.provolatile = 'v' or proc.proname ~ '_to_xml|^pg_input_')
            and proc.proname not in ('clock_timestamp', 'timeofday', 'random', 'gen_random_uuid')
            and (
                proc.pronamespace = 'pg_catalog'::regnamespace
                or exists (
                    select from pg_catalog.pg_depend as member
                    where member.classid = 'pg_proc'::regclass and member.objid = proc.oid and member.deptype = 'e'
                )
            )
    ),

    found as (
        select
            5 as place,
            format(
                'the %s calls %s of %I with the rights of whoever reads its table',
                pg_describe_object(planned.classid, planned.objid, 0), proc.oid::regprocedure,
                pg_get_userbyid(proc.proowner)
            ) as what,
            -- One that keeps running as its owner would give our rights to whoever calls it.
            case when proc.prosecdef then format('alter function %s security invoker; ', proc.oid::regprocedure) else '' end
            || format('alter function %s owner to %I;', proc.oid::regprocedure, me.rolname) as fix
        from planned
        inner join pg_catalog.pg_proc as proc on proc.oid = planned.function, me
        where proc.proowner not in (select oid from ours)
        union all
        select
            6,
            format(
                'the %s calls %s with the rights of whoever writes a row',
                pg_describe_object('pg_constraint'::regclass, powerful.oid, 0), powerful.function::regprocedure
            ),
            format(
                'alter %s drop constraint %I;',
                case
                    when rules.contypid <> 0 then 'domain ' || rules.contypid::regtype
                    else 'table ' || rules.conrelid::regclass
                end,
                rules.conname
            )
        from powerful
        inner join pg_catalog.pg_constraint as rules on rules.oid = powerful.oid
    )

    select what, fix from found order by place, what
{% endmacro %}


{#
    require_no_strangers(): stops dbt if something that it would use is somebody else's.
#}
{% macro require_no_strangers() %}
    {% if pgsplit.is_monolith() %}
        {% set mark = pgsplit.mark_of_service() %}
        {% set ours = pgsplit.ours(mark, "array['split']::name[]", "null") %}
        {% set queries = [
            pgsplit.owned_by_strangers(mark, "array[]::name[]"), pgsplit.run_by_readers("'" ~ pgsplit.monolith_schema() ~ "'")
        ] %}
    {% else %}
        {% set mark = "'made by the " ~ project_name ~ " split for " ~ target.name ~ "'" %}
        {% set schemas = "array['split', 'audit', 'owner', '" ~ pgsplit.monolith_schema() ~ "']::name[]" %}
        {% set streams = "array['split_" ~ target.name ~ "', 'split_" ~ target.name ~ "_back']::name[]" %}
        {% set ours = pgsplit.ours(mark, schemas, "'" ~ target.name ~ "'") %}
        {% set queries = [pgsplit.owned_by_strangers(mark, streams)] %}
    {% endif %}
    {% for query in queries %}
        {% set found = run_query(ours ~ query).rows %}
        {% if found %}
            {% do exceptions.raise_compiler_error(
                "In " ~ target.dbname ~ " on " ~ target.host ~ ", " ~ found[0][0] ~ ". This project uses only what is its"
                ~ " own. Nothing was changed. " ~ found[0][1]
            ) %}
        {% endif %}
    {% endfor %}
{% endmacro %}
