with

file_urls as (
    select * from {{ ref('file_urls') }}
),

-- Scheme, nothing, host, and the path's segments.
segmented as (
    select
        id,
        source_id,
        string_to_array({{ url_without_query('url') }}, '/') as segments
    from file_urls
),

hosted as (
    select
        id,
        source_id,
        lower(segments[1]) as scheme,
        lower(segments[3]) as host,
        segments
    from segmented
    where segments[2] = ''
),

-- `unnest`, since PostgreSQL would take the host apart anew wherever its bucket is used.
addressed as (
    select
        hosted.id,
        hosted.source_id,
        hosted.segments,
        {{ s3_region('hosted.host') }} as region,
        named.bucket as named_bucket
    from hosted
    cross join lateral unnest(array[
        case
            when hosted.scheme = 's3:' then nullif(hosted.segments[3], '')
            when hosted.scheme in ('https:', 'http:', '') and hosted.host not like '%@%'
                then {{ s3_bucket('hosted.host') }}
        end
    ]) as named (bucket)
),

-- Where the host does not name the bucket, the path does.
located as (
    select
        id,
        source_id,
        case named_bucket when '' then segments[4] else named_bucket end as bucket,
        array_to_string(
            case named_bucket when '' then segments[5:] else segments[4:] end, '/'
        ) as key,
        region
    from addressed
    where named_bucket is not null
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
        's3'::text as provider,
        bucket,
        key,
        region
    from stored
)

select * from renamed
