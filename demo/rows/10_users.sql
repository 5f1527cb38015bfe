-- Users, the two kinds of profile, and badges.

insert into blytz_hire.users (
    id, email, role, "emailVerified", "profileComplete", "lastSeenAt", preferences,
    "createdAt", "updatedAt"
)
select
    pg_temp.id('user', i),
    coalesce(
        (array[
            'Mixed.Case@Example.com',
            'plus+tag@example.com',
            '"quoted local"@example.com',
            'o''brien@example.com',
            'почта@пример.example',
            'zoë@example.com'
        ])[i],
        'user' || i::text || '@example.' || pg_temp.one_of(i, 101, 'com', 'org', 'net')
    ),
    case
        when i <= plan.va_profiles then 'va'
        when i <= plan.va_profiles + plan.companies then 'company'
        -- the rest signed up and went no further, but for the staff
        when i <= plan.va_profiles + plan.companies + 3 then 'admin'
        else pg_temp.one_of(i, 102, 'va', 'company')
    end,
    i % 5 > 0,
    i <= plan.va_profiles + plan.companies and i % 9 > 0,
    pg_temp.moment(i, 103) + pg_temp.hours(100),
    case
        when i % 12 < 11 then pg_temp.odd_json(
            i,
            jsonb_build_object(
                'theme', pg_temp.one_of(i, 104, 'light', 'dark'),
                'emailDigest', i % 3 = 0,
                'locale', pg_temp.one_of(i, 105, 'en-US', 'es-MX', 'fil-PH', 'pl-PL')
            )
        )
    end,
    pg_temp.moment(i, 103),
    -- every fourth was changed by SQL that left this stale
    pg_temp.moment(i, 103) + pg_temp.hours(case when i % 4 > 0 then 48 else 0 end)
from plan, generate_series(1, plan.users) as i;

insert into blytz_hire.va_profiles (
    id, "userId", name, bio, country, "hourlyRate", skills, availability, email, phone,
    timezone, languages, "workExperience", education, "responseRate", "averageRating",
    "totalReviews", "featuredProfile", "profileViews", "resumeUrl", "videoIntroUrl",
    "skillsScore", "verificationLevel", "backgroundCheckPassed", featured, "earnedAmount",
    "completedJobs", "avatarUrl"
)
select
    pg_temp.id('va', i),
    pg_temp.id('user', i),
    pg_temp.person(i),
    case
        when i % 1000 = 17 then pg_temp.long_text(i)
        when i % 10 < 9 then pg_temp.odd_text(i, pg_temp.prose(i, 111))
    end,
    pg_temp.one_of(
        i, 114, 'Philippines', 'Mexico', 'Poland', 'Kenya', 'Côte d''Ivoire', 'Việt Nam', 'PH'
    ),
    pg_temp.pick(i, 115, 60)::integer + 4,
    case
        when i % 14 < 13 then pg_temp.odd_tags(
            i,
            array[
                pg_temp.one_of(i, 116, 'email', 'calendar', 'research', 'bookkeeping'),
                pg_temp.one_of(i, 117, 'Canva', 'Notion', 'QuickBooks', 'Shopify', 'C#, .NET')
            ]
        )
    end,
    i % 6 > 0,
    case when i % 4 > 0 then 'va' || i::text || '@example.org' end,
    case when i % 3 > 0 then '+63 917 ' || (1000000 + pg_temp.pick(i, 118, 8999999))::text end,
    case when i % 5 > 0 then pg_temp.one_of(i, 119, 'Asia/Manila', 'UTC', 'GMT+8', 'EST') end,
    case
        when i % 13 < 12 then pg_temp.odd_json(
            i,
            jsonb_build_array(
                jsonb_build_object('language', 'English', 'level', 'fluent'),
                jsonb_build_object('language', pg_temp.one_of(i, 120, 'Español', '中文', 'Polski'))
            )
        )
    end,
    case
        when i % 11 < 10 then jsonb_build_array(
            jsonb_build_object(
                'company', 'Acme & Søn',
                'from', pg_temp.pick(i, 121, 10) + 2010,
                'role', pg_temp.prose(i, 122)
            )
        )
    end,
    case when i % 3 > 0 then pg_temp.odd_json(i - 1, '[{"degree": "BSc", "year": 2016}]') end,
    case when i % 12 < 11 then pg_temp.odd_double(i, pg_temp.amount(i, 125, 10000)) end,
    case when i % 12 < 11 then pg_temp.amount(i, 126, 500) end,
    pg_temp.pick(i, 127, 40)::integer - 1,
    i % 20 = 1,
    pg_temp.pick(i, 128, 5000)::integer - 1,
    case when i % 18 < 17 then pg_temp.file_url('resumes', i, 'pdf') end,
    case when i % 3 = 1 then pg_temp.file_url('videos', i, 'mp4') end,
    case when i % 4 > 0 then pg_temp.pick(i, 129, 100)::integer end,
    pg_temp.one_of(i, 130, 'basic', 'basic', 'verified', 'premium'),
    i % 3 = 0,
    case when i % 7 > 0 then i % 20 = 1 end,
    case when i % 13 < 12 then pg_temp.odd_double(i, pg_temp.amount(i, 131, 4000000)) end,
    pg_temp.pick(i, 132, 30)::integer - 1,
    case when i % 4 > 0 then pg_temp.file_url('avatars', i + 3, 'png') end
from plan, generate_series(1, plan.va_profiles) as i;

insert into blytz_hire.companies (
    id, "userId", name, bio, country, website, "logoUrl", industry, "companySize",
    "foundedYear", description, mission, "values", benefits, email, phone,
    "verificationLevel", "backgroundCheckPassed", "featuredCompany", "socialLinks",
    "techStack", "totalSpent", "updatedAt"
)
select
    pg_temp.company_id(i),
    pg_temp.id('user', pg_temp.company_user(i, plan.va_profiles)),
    pg_temp.odd_text(
        i - 5,
        pg_temp.one_of(i, 141, 'Bright', 'Søren &', 'North', 'Blue', 'Grüne', 'Acme') || ' '
            || pg_temp.one_of(i, 142, 'Labs', 'Commerce, Inc.', 'Studio', 'Partners', 'GmbH')
    ),
    case when i % 4 > 0 then pg_temp.odd_text(i, pg_temp.prose(i, 143)) end,
    pg_temp.one_of(i, 146, 'United States', 'US', 'Deutschland', 'Canada', 'Singapore'),
    case when i % 3 > 0 then 'https://company' || i::text || '.example.com/' end,
    case when i % 14 < 12 then pg_temp.file_url('logos', i, 'svg') end,
    case when i % 5 > 0 then pg_temp.one_of(i, 147, 'E-commerce', 'Health', 'Law', 'IT') end,
    case when i % 6 > 0 then pg_temp.one_of(i, 148, '1-10', '11-50', '51-200', '500+') end,
    case when i % 4 > 0 then 1950 + pg_temp.pick(i, 149, 75)::integer end,
    case when i % 1000 = 13 then pg_temp.long_text(i) when i % 3 > 0 then pg_temp.prose(i, 150) end,
    case when i % 2 > 0 then pg_temp.prose(i, 153) end,
    case when i % 12 < 11 then pg_temp.odd_json(i, '["honesty", "speed"]') end,
    case when i % 3 > 0 then pg_temp.odd_json(i - 2, '{"paidLeave": true, "days": 20}') end,
    case when i % 4 > 0 then 'hello@company' || i::text || '.example.com' end,
    case when i % 4 > 1 then '+1 (555) 01' || (10 + pg_temp.pick(i, 156, 89))::text end,
    pg_temp.one_of(i, 157, 'basic', 'verified', 'premium'),
    i % 2 = 0,
    i % 15 = 1,
    case when i % 3 > 0 then '{"linkedin": "https://example.com/in", "x": null}'::jsonb end,
    case when i % 5 > 0 then '["PostgreSQL", "Next.js", "C++"]'::jsonb end,
    case when i % 13 < 12 then pg_temp.odd_double(i, pg_temp.amount(i, 158, 9000000)) end,
    pg_temp.moment(i, 159)
from plan, generate_series(1, plan.companies) as i;

insert into blytz_hire.badges (
    id, "vaProfileId", "badgeType", title, description, icon, level, "issuedAt", "expiresAt"
)
select
    pg_temp.id('badge', i),
    pg_temp.id('va', pg_temp.pick(i, 161, plan.va_profiles)),
    pg_temp.one_of(i, 162, 'skill', 'milestone', 'community'),
    pg_temp.one_of(i, 163, 'Top rated', 'Rising talent', '100 hours', 'Fast reply'),
    pg_temp.odd_text(i, pg_temp.prose(i, 164)),
    pg_temp.one_of(i, 167, '🏅', '⭐', 'icon-badge', '🧑🏾‍🏫'),
    pg_temp.one_of(i, 168, 'bronze', 'silver', 'gold'),
    pg_temp.moment(i, 169),
    case when i % 3 > 0 then pg_temp.moment(i, 169) + pg_temp.hours(8760) end
from plan, generate_series(1, plan.badges) as i;
