{#
    user_events(shared_users): the ordered inbox of what happened to the users that a service shares.

    A post-hook of shared_users. It makes, in the service's schema:

    | object                          | what for                                              |
    |---------------------------------|-------------------------------------------------------|
    | user_events                     | one row an event, in the order of `sequence`          |
    | user_events_since(since, most)  | the events behind one that was read, as documents     |

    Whatever changes shared_users appends its events in the same transaction, so there is one for each
    change, exactly once, also across crashes and replays. Only split.sync() changes it, one caller at
    a time, so whoever has seen an event never sees an earlier one come later. `NOTIFY user_events`
    carries the last sequence. Events older than split.service.keep_events are removed as others come;
    who asks for events behind one that is gone, or one that never was, is told so. The first copy makes
    no events.
#}
{% macro user_events(shared_users) %}
    {% set schema = shared_users.schema %}
    -- A sync holds one of the tables and waits for the other; so it has to wait before it begins.
    lock table split.turn in exclusive mode;
    create table if not exists {{ schema }}.user_events (
        sequence bigint generated always as identity primary key,
        type text not null check (type in ('USER_CREATED', 'USER_UPDATED', 'USER_DELETED')),
        user_id text not null,
        data jsonb not null,
        timestamp timestamptz not null default clock_timestamp()
    );
    create index if not exists user_events_timestamp_idx on {{ schema }}.user_events (timestamp);
    comment on table {{ schema }}.user_events is
    'What happened to users, in order: an inbox that LISTEN user_events tells of.';

    -- A session keeps its plans: one for a few rows would join many of them each with each.
    create or replace function split.append_user_events()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set enable_nestloop = off
    as $append$
    declare
        appended bigint;
        last_sequence bigint;
        removed_to bigint;
    begin
        if tg_op = 'INSERT' then
            insert into {{ schema }}.user_events (type, user_id, data)
            select 'USER_CREATED', became.id, split.user_data(became)
            from became
            order by became.id;
            get diagnostics appended = row_count;
            delete from split.fetched_users using became where fetched_users.id = became.id;
        else
            insert into {{ schema }}.user_events (type, user_id, data)
            select
                case
                    when became.deleted_at is not null then 'USER_DELETED'
                    when was.deleted_at is not null then 'USER_CREATED'
                    else 'USER_UPDATED'
                end,
                became.id,
                split.user_data(became)
            from became
            inner join was on became.id = was.id
            order by became.id;
            get diagnostics appended = row_count;
        end if;
        if appended = 0 then
            return null;
        end if;

        delete from {{ schema }}.user_events
        where timestamp < clock_timestamp() - (select keep_events from split.service);
        if found then
            select min(sequence) - 1 into removed_to from {{ schema }}.user_events;
            update split.service set events_removed_to = removed_to;
        end if;
        select max(sequence) into last_sequence from {{ schema }}.user_events;
        perform pg_notify('user_events', last_sequence::text);
        return null;
    end
    $append$;

    create or replace function split.user_data(shared {{ shared_users }})
    returns jsonb
    language sql
    immutable
    as $data$
        select jsonb_strip_nulls(jsonb_build_object(
            'id', shared.id, 'email', shared.email, 'role', shared.role, 'name', shared.name,
            'avatar', shared.avatar
        ))
    $data$;

    create or replace function {{ schema }}.user_events_since(since bigint, most integer default 1000)
    returns table (sequence bigint, event jsonb)
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    as $since$
    declare
        removed_to bigint := (select events_removed_to from split.service);
        last_sequence bigint := coalesce((select max(events.sequence) from {{ schema }}.user_events as events), removed_to);
    begin
        if since not between removed_to and last_sequence then
            raise exception using
                errcode = 'no_data_found',
                message = case
                    when since < removed_to
                        then format('The user events up to %s are gone, and what follows %s was asked for.', removed_to, since)
                    else format('The last user event is %s, and what follows %s was asked for.', last_sequence, since)
                end,
                hint = format(
                    'Read all of %I.shared_users anew, in one repeatable-read transaction with: select coalesce(max(sequence), %s)'
                    ' from %I.user_events; and go on behind that.', '{{ schema }}', removed_to, '{{ schema }}'
                );
        end if;
        return query
        select
            events.sequence,
            jsonb_build_object(
                'type', events.type,
                'userId', events.user_id,
                'data', events.data,
                'timestamp', to_char(events.timestamp at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
            )
        from {{ schema }}.user_events as events
        where events.sequence > since
        order by events.sequence
        limit most;
    end
    $since$;

    create or replace trigger split_user_created
    after insert on {{ shared_users }} referencing new table as became
    for each statement execute function split.append_user_events();
    create or replace trigger split_user_changed
    after update on {{ shared_users }} referencing old table as was new table as became
    for each statement execute function split.append_user_events();
{% endmacro %}
