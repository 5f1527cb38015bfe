{#
    get_shared_user(shared_users, sql): a function that gives a user, wherever it is known.

    A post-hook of shared_users; the function bears the macro's name, in the service's schema.

    | the user                                 | answer                                               |
    |------------------------------------------|------------------------------------------------------|
    | is in the copy, a deleted one too        | the copy's row: a hit, also while the owner is down  |
    | was fetched less than a minute ago       | what was fetched: a hit                              |
    | is with its owner, and not here yet      | fetched from there and kept: a miss                  |
    | is nowhere                               | null: a miss                                         |
    | is not here, and the owner is down       | the error connection_exception, which says so        |

    The owner is asked with the model's own SQL over foreign tables (schema `owner`, made by the
    runner), restricted to the id, which postgres_fdw sends along. Hits and misses are counted by
    sequences: these take no lock and outlive a rollback. In a read-only transaction nothing is
    counted and nothing kept; the answer is the same. An owner who does not answer in time is down.
#}
{% macro get_shared_user(shared_users, sql) %}
    {% set schema = shared_users.schema %}
    create table if not exists split.fetched_users (
        like {{ shared_users }},
        fetched_at timestamptz not null default clock_timestamp(),
        primary key (id)
    );
    comment on table split.fetched_users is
    'Users that were asked for before they had arrived; shared_users takes over when they do.';
    create sequence if not exists split.user_cache_hits minvalue 0 start 0;
    create sequence if not exists split.user_cache_misses minvalue 0 start 0;

    create or replace function {{ schema }}.get_shared_user(user_id text)
    returns {{ shared_users }}
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $get$
    declare
        shared {{ shared_users }};
        reason text;
        detail text;
        is_read_only boolean := current_setting('transaction_read_only')::boolean;
    begin
        select * into shared from {{ shared_users }} where id = user_id;
        if found then
            if not is_read_only then
                perform nextval('split.user_cache_hits');
            end if;
            return shared;
        end if;
        select {{ quoted(model.columns) }} into shared from split.fetched_users
        where id = user_id and fetched_at > clock_timestamp() - interval '1 minute';
        if found then
            if not is_read_only then
                perform nextval('split.user_cache_hits');
            end if;
            return shared;
        end if;
        if not is_read_only then
            perform nextval('split.user_cache_misses');
        end if;
        begin
            select {{ quoted(model.columns, 'found') }} into shared
            from ({{ sql | replace('"blytz_hire".', 'owner.') }}) as found
            where found.id = user_id;
        exception
            when query_canceled or others then
                get stacked diagnostics reason = message_text, detail = pg_exception_detail;
                reason := concat_ws(': ', reason, nullif(detail, ''));
        end;
        if reason is not null then
            raise exception using
                errcode = 'connection_exception',
                message = format('User %s is not in the copy, and its owner can''t be asked: %s', user_id, reason),
                hint = 'Try again later; users that are in the copy are answered all the same.'
                    ' If the owner is up: runner.py build {{ target.name | replace('_db', '') }}';
        end if;
        if shared.id is null then
            return null;
        elsif is_read_only then
            return shared;
        end if;
        insert into split.fetched_users ({{ quoted(model.columns) }})
        values ({{ quoted(model.columns, '(shared)') }})
        on conflict (id) do update
        set
            {% for name in model.columns if name != 'id' %}
                {{ adapter.quote(name) }} = excluded.{{ adapter.quote(name) }},
            {% endfor %}
            fetched_at = clock_timestamp();
        return shared;
    end
    $get$;
    {% for function in ['get_shared_user(text)', 'user_events_since(bigint, integer)'] %}
        revoke execute on function {{ schema }}.{{ function }} from public;
        grant execute on function {{ schema }}.{{ function }} to {{ target.name | replace('_db', '_service') }};
    {% endfor %}
{% endmacro %}
