-- Postings, and what leads from a posting to a job.

insert into blytz_hire.job_postings (
    id, "companyId", title, description, requirements, responsibilities, benefits,
    "rateRange", budget, location, remote, category, tags, "experienceLevel",
    "employmentType", "jobType", duration, status, urgency, "skillsRequired", "toolsUsed",
    "teamSize", "reportingTo", "travelRequired", "workSchedule", views, "proposalCount",
    featured, "createdAt", "updatedAt"
)
select
    pg_temp.id('posting', i),
    pg_temp.company_id(pg_temp.posting_company(i, plan.companies)),
    pg_temp.one_of(i, 201, 'Virtual assistant', 'Asistente ejecutivo', 'Bookkeeper', '客服专员')
        || pg_temp.one_of(i, 202, '', ' (part-time)', ' – long term', ' / urgent'),
    case
        when i % 1000 = 18 then pg_temp.long_text(i)
        else pg_temp.odd_text(i, pg_temp.prose(i, 203))
    end,
    case when i % 12 < 11 then pg_temp.odd_json(i, '["own laptop", "fast internet"]') end,
    case when i % 4 > 0 then jsonb_build_array(pg_temp.prose(i, 206), pg_temp.prose(i, 209)) end,
    case when i % 3 > 0 then pg_temp.odd_json(i - 4, '["13th month"]') end,
    coalesce(
        (array[
            '$10-$20/hr',
            '$1,000 - $2,500/month',
            '10-20',
            '$15/hr',
            '€30–€45/hr',
            'negotiable',
            '',
            'DOE',
            '$20-$10/hr',
            '  $5.50  to  $8.25 / hour ',
            '$10k-$20k/yr',
            'up to $50/hr',
            '¥3000/日',
            '$0/hr',
            '$10-$20-$30',
            '£1,000,000.50',
            '$12345678901234567890/hr',
            'between ten and twenty',
            '$25+/hr',
            '15 USD per hour'
        ])[pg_temp.odd(i, 20)],
        case
            when i % 5 > 0 then
                '$' || (pg_temp.pick(i, 212, 20) + 4)::text
                || '-$' || (pg_temp.pick(i, 213, 30) + 24)::text || '/hr'
            else
                '$' || pg_temp.pick(i, 214, 3)::text || ',200 - $'
                || (pg_temp.pick(i, 215, 5) + 3)::text || ',500/month'
        end
    ),
    case when i % 12 < 11 then pg_temp.odd_double(i, pg_temp.amount(i, 216, 1000000)) end,
    case when i % 3 > 0 then pg_temp.one_of(i, 217, 'Remote', 'Manila', 'São Paulo', 'Kraków') end,
    i % 8 > 0,
    case when i % 6 > 0 then pg_temp.one_of(i, 218, 'admin', 'finance', 'support', 'R&D') end,
    case when i % 9 < 8 then pg_temp.odd_tags(i, array['urgent', 'remote']) end,
    case when i % 5 > 0 then pg_temp.one_of(i, 219, 'junior', 'mid', 'senior') end,
    case when i % 4 > 0 then pg_temp.one_of(i, 220, 'part-time', 'full-time', 'contract') end,
    case when i % 7 > 0 then pg_temp.one_of(i, 221, 'fixed', 'hourly') end,
    case when i % 3 > 0 then pg_temp.one_of(i, 222, '1 month', '3-6 months', 'ongoing') end,
    case when i % 11 > 0 then pg_temp.one_of(i, 223, 'open', 'open', 'filled', 'closed') end,
    case when i % 10 > 0 then pg_temp.one_of(i, 224, 'low', 'medium', 'high') end,
    case
        when i % 10 < 9 then pg_temp.odd_tags(
            i - 1,
            array[pg_temp.one_of(i, 225, 'email', 'CRM', 'Excel'), 'English']
        )
    end,
    case when i % 3 > 0 then '{"chat": "Slack", "boards": ["Trello"]}'::jsonb end,
    case when i % 4 > 0 then pg_temp.pick(i, 226, 20)::integer end,
    case when i % 5 > 1 then pg_temp.one_of(i, 227, 'CEO', 'Head of Ops', 'Büroleitung') end,
    case when i % 6 > 2 then pg_temp.one_of(i, 228, 'no', 'once a year') end,
    case when i % 4 > 1 then '{"days": ["mon", "tue"], "from": "09:00"}'::jsonb end,
    pg_temp.pick(i, 229, 2000)::integer - 1,
    pg_temp.pick(i, 230, 40)::integer - 1,
    i % 25 = 1,
    pg_temp.moment(i, 231),
    pg_temp.moment(i, 231) + pg_temp.hours(pg_temp.pick(i, 232, 300))
from plan, generate_series(1, plan.job_postings) as i;

insert into blytz_hire.proposals (
    id, "jobPostingId", "vaProfileId", "jobId", "coverLetter", "bidAmount", "bidType",
    "hourlyRate", "estimatedHours", "deliveryTime", attachments, status, "viewedAt",
    "respondedAt", "createdAt", "updatedAt"
)
select
    pg_temp.id('proposal', i),
    pg_temp.id('posting', pg_temp.deal_posting(i, plan.job_postings)),
    pg_temp.id('va', pg_temp.deal_va(i, plan.va_profiles)),
    case when i <= plan.jobs and i % 9 > 0 then pg_temp.id('job', i) end,
    case
        when i % 1000 = 19 then pg_temp.long_text(i)
        else pg_temp.odd_text(i, pg_temp.prose(i, 241) || E'\n\n' || pg_temp.prose(i, 244))
    end,
    pg_temp.odd_double(i, pg_temp.amount(i, 247, 500000)),
    case when i % 3 > 0 then 'fixed' else 'hourly' end,
    case when i % 3 = 0 then pg_temp.amount(i, 248, 6000) end,
    case when i % 3 = 0 then pg_temp.odd_double(i, pg_temp.amount(i, 249, 20000)) end,
    pg_temp.one_of(i, 250, '1 week', '3 days', 'ASAP', '2–3 weeks'),
    case pg_temp.odd(i, 10)
        when 1 then jsonb_build_array(
            pg_temp.file_url('proposals', 50, 'pdf'), pg_temp.file_url('proposals', 2, 'pdf')
        )
        when 2 then jsonb_build_array(
            jsonb_build_object(
                'url', pg_temp.file_url('proposals', 51, 'docx'),
                'name', 'Résumé "final", v2.docx',
                'type', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
                'size', 123456
            ),
            jsonb_build_object('url', pg_temp.file_url('proposals', 5, 'pdf'), 'size', 1.50)
        )
        when 3 then '[]'
        when 4 then 'null'
        when 5 then jsonb_build_object('url', pg_temp.file_url('proposals', 52, 'png'))
        when 6 then jsonb_build_array(
            pg_temp.file_url('proposals', 53, 'png'),
            jsonb_build_object('url', pg_temp.file_url('proposals', 54, 'png')),
            null, 7, true,
            jsonb_build_object('name', 'no address.pdf'),
            jsonb_build_object('url', null),
            jsonb_build_object('url', ''),
            jsonb_build_array(pg_temp.file_url('proposals', 55, 'png')),
            ''
        )
        when 7 then to_jsonb(pg_temp.file_url('proposals', 56, 'pdf'))
        when 8 then '{}'
        -- one file twice
        when 9 then jsonb_build_array(
            pg_temp.file_url('proposals', 57, 'pdf'), pg_temp.file_url('proposals', 57, 'pdf')
        )
        when 10 then null
        else case
            when i % 3 = 0 then jsonb_build_array(
                jsonb_build_object(
                    'url', pg_temp.file_url('proposals', i, 'pdf'),
                    'name', 'cover-' || i::text || '.pdf',
                    'type', 'application/pdf',
                    'size', pg_temp.pick(i, 251, 5000000)
                )
            )
            when i % 3 = 1 then jsonb_build_array(pg_temp.file_url('proposals', i, 'pdf'))
        end
    end,
    case
        when i <= plan.jobs then 'accepted'
        else pg_temp.one_of(i, 252, 'pending', 'viewed', 'rejected', 'withdrawn')
    end,
    case when i % 3 > 0 then pg_temp.moment(i, 253) + pg_temp.hours(5) end,
    case when i % 3 > 1 then pg_temp.moment(i, 253) + pg_temp.hours(30) end,
    pg_temp.moment(i, 253),
    pg_temp.moment(i, 253) + pg_temp.hours(30)
from plan, generate_series(1, plan.proposals) as i;

insert into blytz_hire.jobs (
    id, "jobPostingId", "vaProfileId", "companyId", status, title, description, budget,
    "hourlyRate", "totalHours", "totalAmount", "startDate", "endDate", "createdAt", "updatedAt"
)
select
    pg_temp.id('job', i),
    pg_temp.id('posting', pg_temp.deal_posting(i, plan.job_postings)),
    pg_temp.id('va', pg_temp.deal_va(i, plan.va_profiles)),
    pg_temp.company_id(pg_temp.deal_company(i, plan.job_postings, plan.companies)),
    pg_temp.one_of(i, 261, 'pending', 'active', 'active', 'completed', 'cancelled'),
    pg_temp.odd_text(i, pg_temp.one_of(i, 262, 'Inbox care', 'Monthly books', 'Tienda en línea')),
    case when i % 1000 = 14 then pg_temp.long_text(i) else pg_temp.prose(i, 263) end,
    case when i % 12 < 11 then pg_temp.odd_double(i, pg_temp.amount(i, 266, 900000)) end,
    case when i % 2 > 0 then pg_temp.odd_double(i, pg_temp.amount(i, 267, 6000)) end,
    case when i % 3 > 0 then pg_temp.odd_double(i, pg_temp.amount(i, 268, 20000)) end,
    case when i % 4 > 0 then pg_temp.odd_double(i, pg_temp.amount(i, 269, 900000)) end,
    case when i % 9 > 0 then pg_temp.moment(i, 270) end,
    case when i % 3 > 0 then pg_temp.moment(i, 270) + pg_temp.hours(720) end,
    pg_temp.moment(i, 270) - pg_temp.hours(24),
    pg_temp.moment(i, 270) + pg_temp.hours(pg_temp.pick(i, 271, 500))
from plan, generate_series(1, plan.jobs) as i;

insert into blytz_hire.matches (
    id, "jobPostingId", "vaProfileId", status, "createdAt", "updatedAt"
)
select
    pg_temp.id('match', i),
    pg_temp.id('posting', posting),
    pg_temp.id('va', va),
    pg_temp.one_of(i, 281, 'active', 'active', 'mutual', 'expired'),
    pg_temp.moment(i, 282),
    pg_temp.moment(i, 282) + pg_temp.hours(pg_temp.pick(i, 283, 200))
from
    plan,
    generate_series(1, plan.matches) as i,
    pg_temp.match_pair(i, plan.job_postings, plan.va_profiles);

-- Either side of a match votes once, and some voters have left.
insert into blytz_hire.match_votes (
    id, "jobPostingId", "vaProfileId", "userId", vote, "createdAt"
)
select
    pg_temp.id('vote', i),
    pg_temp.id('posting', posting),
    pg_temp.id('va', va),
    case
        when i % 400 = 7 then pg_temp.gone_id('user', i)
        when (i + (i - 1) / plan.matches) % 2 = 0 then pg_temp.id('user', va)
        -- not company_user: it would meet itself where the owner has the matched profile
        else pg_temp.id(
            'user', plan.va_profiles + pg_temp.posting_company(posting, plan.companies)
        )
    end,
    i % 3 > 0,
    pg_temp.moment(i, 291)
from
    plan,
    generate_series(1, plan.match_votes) as i,
    pg_temp.match_pair(1 + (i - 1) % plan.matches, plan.job_postings, plan.va_profiles);

insert into blytz_hire.skills_assessments (
    id, "vaProfileId", "skillName", category, score, difficulty, "assessmentType",
    "completedAt", "expiresAt"
)
select
    pg_temp.id('assessment', i),
    pg_temp.id('va', pg_temp.pick(i, 295, plan.va_profiles)),
    pg_temp.odd_text(i, pg_temp.one_of(i, 296, 'Typing', 'Excel', 'C++', 'Español', '敬語')),
    pg_temp.one_of(i, 297, 'technical', 'language', 'soft'),
    pg_temp.pick(i, 298, 101)::integer - 1,
    pg_temp.one_of(i, 299, 'beginner', 'intermediate', 'expert'),
    pg_temp.one_of(i, 300, 'quiz', 'project', 'interview'),
    pg_temp.moment(i, 301),
    case when i % 4 > 0 then pg_temp.moment(i, 301) + pg_temp.hours(17520) end
from plan, generate_series(1, plan.skills_assessments) as i;
