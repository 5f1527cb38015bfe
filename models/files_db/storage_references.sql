with

file_urls as (
    select * from {{ ref('file_urls') }}
),

providers as (
    select
        row_number() over () as position,
        rows.*
    from ({{ storage_providers() }}) as rows (provider, scheme, domain, host, prefix, separator)
),

segmented as (
    select
        id,
        source_id,
        string_to_array({{ url_without_query('url') }}, '/') as segments
    from file_urls
),

-- Scheme, nothing, host, and the path's segments. Without a password: such a URL is nobody's store.
hosted as (
    select
        id,
        source_id,
        case
            when lower(segments[1]) in ('https:', 'http:', '') then '' else lower(segments[1])
        end as scheme,
        case
            when lower(segments[1]) in ('https:', 'http:', '')
                then lower(split_part(segments[3], ':', 1))
            else segments[3]
        end as host,
        '/' || array_to_string(segments[4:], '/') as path
    from segmented
    where segments[2] = '' and segments[3] not like '%@%'
),

-- `case`, so that PostgreSQL asks what is cheap first.
addressed as (
    select
        hosted.id,
        hosted.source_id,
        store.provider,
        store.named[1] as named_bucket,
        store.named[2] as region,
        store.separator,
        substr(hosted.path, length(store.prefix) + 1) as rest
    from hosted
    cross join lateral (
        select
            providers.provider,
            providers.separator,
            regexp_match(hosted.host, '^' || providers.host || '$') as named,
            substring(hosted.path from '^' || providers.prefix) as prefix
        from providers
        where
            case
                when hosted.scheme <> providers.scheme then false
                when position(providers.domain in hosted.host) = 0 then false
                else
                    hosted.host ~ ('^' || providers.host || '$')
                    and hosted.path ~ ('^' || providers.prefix)
            end
        order by providers.position
        limit 1
    ) as store
),

-- Where the host does not name the bucket, the path does.
located as (
    select
        id,
        source_id,
        provider,
        coalesce(nullif(named_bucket, ''), split_part(rest, separator, 1)) as bucket,
        case
            when named_bucket <> '' then rest
            else
                substr(
                    rest,
                    length(split_part(rest, separator, 1)) + length(separator) + 1
                )
        end as key,
        nullif(region, '') as region
    from addressed
),

-- Without a key it is a bucket's address, not an object's.
stored as (
    select * from located
    where bucket <> '' and key <> ''
),

renamed as (
    select
        -- ids
        id as file_id,
        source_id,

        -- text
        provider,
        bucket,
        key,
        region
    from stored
)

select * from renamed
