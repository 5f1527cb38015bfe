with

va_profiles as (
    select * from {{ ref('va_profiles') }}
),

va_profile_details as (
    select * from {{ ref('va_profile_details') }}
),

-- One row a profile. One that the service has not given details yet has the monolith's defaults.
described as (
    select
        va_profiles.*,
        va_profile_details.*,
        va_profile_details.va_profile_id is null as is_undescribed
    from va_profiles
    left join va_profile_details on va_profiles.id = va_profile_details.va_profile_id
),

renamed as (
    select
        {{ pgsplit.reverse_columns('va_profiles', {
            'availability': 'coalesce(availability, true)',
            'featuredProfile': 'coalesce(featured_profile, false)',
            'profileViews': 'coalesce(profile_views, 0)',
            'completedJobs': 'coalesce(completed_jobs, 0)',
            'featured': 'case when is_undescribed then false else featured end',
            'earnedAmount': 'case when is_undescribed then 0 else earned_amount end',
        }) }}
    from described
)

select * from renamed
