{#
    _event_inbox_since(shared, inbox, entity): the function that gives the events after a sequence number.

    Refuses a number whose next events are gone, and one that is not there yet. The service's login may
    call it; it runs as the schema's owner.
#}
{% macro _event_inbox_since(shared, inbox, entity) %}
    create or replace function {{ inbox }}_since(since bigint, most integer default 1000)
    returns table (sequence bigint, event jsonb)
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    as $since$
    declare
        removed_to bigint := (select inboxes.removed_to from split.inboxes where entity = '{{ entity }}');
        last_sequence bigint := coalesce((select max(events.sequence) from {{ inbox }} as events), removed_to);
    begin
        if since not between removed_to and last_sequence then
            raise exception using
                errcode = 'no_data_found',
                message = case
                    when since < removed_to
                        then format(
                            'The {{ entity }} events up to %s are gone, and what follows %s was asked for.',
                            removed_to, since
                        )
                    else format(
                        'The last {{ entity }} event is %s, and what follows %s was asked for.',
                        last_sequence, since
                    )
                end,
                hint = format(
                    'Read all of {{ shared.schema }}.{{ shared.identifier }} again, in one repeatable-read'
                    ' transaction with: select coalesce(max(sequence), %s) from {{ inbox }}; then go on after that.', removed_to
                );
        end if;
        return query
        select
            events.sequence,
            jsonb_build_object(
                'type', events.type,
                '{{ entity }}Id', events.{{ entity }}_id,
                'data', events.data,
                'timestamp', to_char(events.timestamp at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
            )
        from {{ inbox }} as events
        where events.sequence > since
        order by events.sequence
        limit most;
    end
    $since$;

    revoke execute on function {{ inbox }}_since(bigint, integer) from public;
    grant execute on function {{ inbox }}_since(bigint, integer) to {{ pgsplit.service_login() }};
{% endmacro %}
