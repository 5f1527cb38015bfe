-- The keys of the monolith, added after the rows: building them once is faster than keeping
-- them up to date row by row.

-- Foreign keys point at these, so they come first.

alter table blytz_hire.users add constraint users_pkey primary key (id);
alter table blytz_hire.va_profiles add constraint va_profiles_pkey primary key (id);
alter table blytz_hire.companies add constraint companies_pkey primary key (id);
alter table blytz_hire.badges add constraint badges_pkey primary key (id);
alter table blytz_hire.job_postings add constraint job_postings_pkey primary key (id);
alter table blytz_hire.proposals add constraint proposals_pkey primary key (id);
alter table blytz_hire.jobs add constraint jobs_pkey primary key (id);
alter table blytz_hire.matches add constraint matches_pkey primary key (id);
alter table blytz_hire.match_votes add constraint match_votes_pkey primary key (id);
alter table blytz_hire.skills_assessments add constraint skills_assessments_pkey primary key (id);
alter table blytz_hire.contracts add constraint contracts_pkey primary key (id);
alter table blytz_hire.milestones add constraint milestones_pkey primary key (id);
alter table blytz_hire.timesheets add constraint timesheets_pkey primary key (id);
alter table blytz_hire.invoices add constraint invoices_pkey primary key (id);
alter table blytz_hire.payments add constraint payments_pkey primary key (id);
alter table blytz_hire.reviews add constraint reviews_pkey primary key (id);
alter table blytz_hire.notifications add constraint notifications_pkey primary key (id);
alter table blytz_hire.portfolio_items add constraint portfolio_items_pkey primary key (id);

create unique index users_email_key on blytz_hire.users (email);
create unique index "va_profiles_userId_key" on blytz_hire.va_profiles ("userId");
create unique index "companies_userId_key" on blytz_hire.companies ("userId");
create unique index "matches_jobPostingId_vaProfileId_key"
    on blytz_hire.matches ("jobPostingId", "vaProfileId");
create unique index "match_votes_jobPostingId_vaProfileId_userId_key"
    on blytz_hire.match_votes ("jobPostingId", "vaProfileId", "userId");
create unique index "payments_stripePaymentIntentId_key"
    on blytz_hire.payments ("stripePaymentIntentId");

alter table blytz_hire.va_profiles
    add constraint "va_profiles_userId_fkey"
        foreign key ("userId") references blytz_hire.users(id)
        on update cascade on delete restrict;

alter table blytz_hire.companies
    add constraint "companies_userId_fkey"
        foreign key ("userId") references blytz_hire.users(id)
        on update cascade on delete restrict;

alter table blytz_hire.badges
    add constraint "badges_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.job_postings
    add constraint "job_postings_companyId_fkey"
        foreign key ("companyId") references blytz_hire.companies(id)
        on update cascade on delete restrict;

alter table blytz_hire.proposals
    add constraint "proposals_jobId_fkey"
        foreign key ("jobId") references blytz_hire.jobs(id)
        on update cascade on delete set null,
    add constraint "proposals_jobPostingId_fkey"
        foreign key ("jobPostingId") references blytz_hire.job_postings(id)
        on update cascade on delete restrict,
    add constraint "proposals_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.jobs
    add constraint "jobs_companyId_fkey"
        foreign key ("companyId") references blytz_hire.companies(id)
        on update cascade on delete restrict,
    add constraint "jobs_jobPostingId_fkey"
        foreign key ("jobPostingId") references blytz_hire.job_postings(id)
        on update cascade on delete restrict,
    add constraint "jobs_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.matches
    add constraint "matches_jobPostingId_fkey"
        foreign key ("jobPostingId") references blytz_hire.job_postings(id)
        on update cascade on delete restrict,
    add constraint "matches_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.match_votes
    add constraint "match_votes_jobPostingId_vaProfileId_fkey"
        foreign key ("jobPostingId", "vaProfileId")
        references blytz_hire.matches("jobPostingId", "vaProfileId")
        on update cascade on delete restrict;

alter table blytz_hire.skills_assessments
    add constraint "skills_assessments_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.contracts
    add constraint "contracts_companyId_fkey"
        foreign key ("companyId") references blytz_hire.companies(id)
        on update cascade on delete restrict,
    add constraint "contracts_jobId_fkey"
        foreign key ("jobId") references blytz_hire.jobs(id)
        on update cascade on delete restrict,
    add constraint "contracts_jobPostingId_fkey"
        foreign key ("jobPostingId") references blytz_hire.job_postings(id)
        on update cascade on delete restrict,
    add constraint "contracts_proposalId_fkey"
        foreign key ("proposalId") references blytz_hire.proposals(id)
        on update cascade on delete set null,
    add constraint "contracts_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.milestones
    add constraint "milestones_contractId_fkey"
        foreign key ("contractId") references blytz_hire.contracts(id)
        on update cascade on delete restrict,
    add constraint "milestones_jobId_fkey"
        foreign key ("jobId") references blytz_hire.jobs(id)
        on update cascade on delete restrict;

alter table blytz_hire.timesheets
    add constraint "timesheets_contractId_fkey"
        foreign key ("contractId") references blytz_hire.contracts(id)
        on update cascade on delete restrict,
    add constraint "timesheets_jobId_fkey"
        foreign key ("jobId") references blytz_hire.jobs(id)
        on update cascade on delete restrict,
    add constraint "timesheets_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

alter table blytz_hire.payments
    add constraint "payments_contractId_fkey"
        foreign key ("contractId") references blytz_hire.contracts(id)
        on update cascade on delete set null,
    add constraint "payments_jobId_fkey"
        foreign key ("jobId") references blytz_hire.jobs(id)
        on update cascade on delete set null,
    add constraint "payments_matchId_fkey"
        foreign key ("matchId") references blytz_hire.matches(id)
        on update cascade on delete set null,
    add constraint "payments_userId_fkey"
        foreign key ("userId") references blytz_hire.users(id)
        on update cascade on delete restrict;

-- A review has one target, a profile or a company, but both keys want it: a real database
-- holds reviews of both kinds because these two were never validated. They still bind new rows.
alter table blytz_hire.reviews
    add constraint "reviews_company_targetId_fkey"
        foreign key ("targetId") references blytz_hire.companies(id)
        on update cascade on delete restrict not valid,
    add constraint "reviews_va_targetId_fkey"
        foreign key ("targetId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict not valid;

alter table blytz_hire.notifications
    add constraint "notifications_userId_fkey"
        foreign key ("userId") references blytz_hire.users(id)
        on update cascade on delete restrict;

alter table blytz_hire.portfolio_items
    add constraint "portfolio_items_vaProfileId_fkey"
        foreign key ("vaProfileId") references blytz_hire.va_profiles(id)
        on update cascade on delete restrict;

analyze;
