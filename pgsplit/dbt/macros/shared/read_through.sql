{#
    read_through(shared, sql): a function that gives a row of a shared table, wherever it is known.

    A feature of a shared table, switched on by `config.meta.read_through: true` beside `entity`. For
    the entity `user` the function is get_shared_user(user_id), in the service's schema:

    | the row                                  | answer                                               |
    |------------------------------------------|------------------------------------------------------|
    | is in the copy, a deleted one too        | the copy's row: a hit, also while the owner is down  |
    | was fetched less than a minute ago       | what was fetched: a hit                              |
    | is with its owner, and not here yet      | fetched from there and kept: a miss                  |
    | is nowhere                               | null: a miss                                         |
    | is not here, and the owner is down       | the error connection_exception, which says so        |

    The owner is asked with the model's own SQL over foreign tables, which the runner makes in the
    schema `owner`. The SQL is restricted to the key, which postgres_fdw sends along. Sequences count
    hits and misses, since they take no lock and outlive a rollback; they are unlogged, so that nobody
    who reads waits for the disk. In a read-only transaction nothing
    is counted or kept, and the answer is the same. An owner that does not answer in time is down.
#}
{% macro read_through(shared_table, sql) %}
    {% set entity, schema, key = model.config.meta.entity, shared_table.schema, pgsplit.service_table_key() %}
    {% set given, fetched = entity ~ '_id', 'split.fetched_' ~ entity ~ 's' %}
    create table if not exists {{ fetched }} (
        like {{ shared_table }},
        fetched_at timestamptz not null default clock_timestamp(),
        primary key ({{ key }})
    );
    comment on table {{ fetched }} is
    'Rows that were asked for before they had arrived; {{ shared_table.identifier }} takes over when they do.';
    create unlogged sequence if not exists split.{{ entity }}_cache_hits minvalue 0 start 0;
    create unlogged sequence if not exists split.{{ entity }}_cache_misses minvalue 0 start 0;

    create or replace function {{ schema }}.get_shared_{{ entity }}({{ given }} {{ model.columns[key].data_type }})
    returns {{ shared_table }}
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $get$
    declare
        shared {{ shared_table }};
        reason text;
        detail text;
        is_read_only boolean := current_setting('transaction_read_only')::boolean;
    begin
        select * into shared from {{ shared_table }} where {{ key }} = {{ given }};
        if found then
            if not is_read_only then
                perform nextval('split.{{ entity }}_cache_hits');
            end if;
            return shared;
        end if;
        select {{ pgsplit.quoted(model.columns) }} into shared from {{ fetched }}
        where {{ key }} = {{ given }} and fetched_at > clock_timestamp() - interval '1 minute';
        if found then
            if not is_read_only then
                perform nextval('split.{{ entity }}_cache_hits');
            end if;
            return shared;
        end if;
        if not is_read_only then
            perform nextval('split.{{ entity }}_cache_misses');
        end if;
        begin
            select {{ pgsplit.quoted(model.columns, 'found') }} into shared
            from ({{ sql | replace(adapter.quote(pgsplit.monolith_schema()) ~ '.', 'owner.') }}) as found
            where found.{{ key }} = {{ given }};
        exception
            when query_canceled or others then
                get stacked diagnostics reason = message_text, detail = pg_exception_detail;
                reason := concat_ws(': ', reason, nullif(detail, ''));
        end;
        if reason is not null then
            raise exception using
                errcode = 'connection_exception',
                message = format('{{ entity | capitalize }} %s is not in the copy, and its owner can''t be asked: %s', {{ given }}, reason),
                hint = 'Try again later; {{ entity }}s that are in the copy are answered all the same.'
                    ' If the owner is up: runner.py build {{ target.name }}';
        end if;
        if shared.{{ key }} is null then
            return null;
        elsif is_read_only then
            return shared;
        end if;
        insert into {{ fetched }} ({{ pgsplit.quoted(model.columns) }})
        values ({{ pgsplit.quoted(model.columns, '(shared)') }})
        on conflict ({{ key }}) do update
        set
            {% for name in model.columns if name != key %}
                {{ adapter.quote(name) }} = excluded.{{ adapter.quote(name) }},
            {% endfor %}
            fetched_at = clock_timestamp();
        return shared;
    end
    $get$;
    revoke execute on function {{ schema }}.get_shared_{{ entity }} from public;
    grant execute on function {{ schema }}.get_shared_{{ entity }} to {{ pgsplit.service_login() }};
{% endmacro %}
