with

file_urls as (
    select * from {{ ref('file_urls') }}
),

named as (
    select
        *,
        {{ file_name('url') }} as name
    from file_urls
),

renamed as (
    select
        -- ids
        id,
        owner_id,
        va_profile_id,
        source_id,

        -- text
        source_table,
        source_field,
        url,
        name,
        {{ file_extension('name') }} as extension,

        -- numerics
        position
    from named
)

select * from renamed
