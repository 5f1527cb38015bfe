with

portfolio_items as (
    select * from {{ source('blytz_hire', 'portfolio_items') }}
),

proposals as (
    select * from {{ source('blytz_hire', 'proposals') }}
),

-- Read twice, for their URLs and for the owner. PostgreSQL would keep them whole in between, and
-- a few keys would cost as much as all rows.
va_profiles as not materialized (
    select * from {{ source('blytz_hire', 'va_profiles') }}
),

companies as not materialized (
    select * from {{ source('blytz_hire', 'companies') }}
),

-- Attachments are an array, or what should be its only element. One row an element.
attachments as (
    select
        proposals.id,
        proposals."vaProfileId",
        attachment.element,
        attachment.number - 1 as position
    from proposals
    cross join lateral jsonb_array_elements(
        case jsonb_typeof(proposals.attachments)
            when 'array' then proposals.attachments
            else jsonb_build_array(proposals.attachments)
        end
    ) with ordinality as attachment (element, number)
),

-- One row a field that may hold a URL.
fields as (
    select
        'portfolio_items' as source_table,
        portfolio_items.id as source_id,
        field.name as source_field,
        0 as position,
        portfolio_items."vaProfileId" as va_profile_id,
        null::text as company_id,
        field.url
    from portfolio_items
    cross join
        lateral (
            values ('file_url', portfolio_items."fileUrl"),
            ('thumbnail_url', portfolio_items."thumbnailUrl")
        ) as field (name, url)

    union all

    select
        'va_profiles' as source_table,
        va_profiles.id as source_id,
        field.name as source_field,
        0 as position,
        va_profiles.id as va_profile_id,
        null::text as company_id,
        field.url
    from va_profiles
    cross join
        lateral (
            values
            ('resume_url', va_profiles."resumeUrl"),
            ('video_intro_url', va_profiles."videoIntroUrl"),
            ('avatar_url', va_profiles."avatarUrl")
        ) as field (name, url)

    union all

    select
        'companies' as source_table,
        id as source_id,
        'logo_url' as source_field,
        0 as position,
        null::text as va_profile_id,
        id as company_id,
        "logoUrl" as url
    from companies

    union all

    select
        'proposals' as source_table,
        id as source_id,
        'attachments' as source_field,
        position::integer as position,
        "vaProfileId" as va_profile_id,
        null::text as company_id,
        case
            when jsonb_typeof(element) = 'string' then element #>> '{}'
            when jsonb_typeof(element -> 'url') = 'string' then element ->> 'url'
        end as url
    from attachments
),

-- An empty URL is kept: it is what the row says. Files of a profile that is gone have no owner.
owned as (
    select
        fields.*,
        coalesce(va_profiles."userId", companies."userId") as owner_id
    from fields
    left join va_profiles on fields.va_profile_id = va_profiles.id
    left join companies on fields.company_id = companies.id
    where fields.url is not null
),

-- Neither tables nor fields have a colon in their names, so no two references share an id,
-- whatever the row's id is.
identified as (
    select
        *,
        concat_ws(':', source_table, source_id, source_field, position) as id
    from owned
)

select * from identified
