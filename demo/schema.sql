-- The 18 tables of the monolith, without keys: rows go in first, keys.sql follows.
-- A Prisma client writes these names, hence the quoted camelCase.

create schema if not exists blytz_hire;

create table blytz_hire.users (
    id text not null,
    email text not null,
    role text not null,
    "emailVerified" boolean default false not null,
    "profileComplete" boolean default false not null,
    "lastSeenAt" timestamp(3) not null,
    preferences jsonb,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.va_profiles (
    id text not null,
    "userId" text not null,
    name text not null,
    bio text,
    country text not null,
    "hourlyRate" integer not null,
    skills text[],
    availability boolean default true not null,
    email text,
    phone text,
    timezone text,
    languages jsonb,
    "workExperience" jsonb,
    education jsonb,
    "responseRate" double precision,
    "averageRating" double precision,
    "totalReviews" integer default 0 not null,
    "featuredProfile" boolean default false not null,
    "profileViews" integer default 0 not null,
    "resumeUrl" text,
    "videoIntroUrl" text,
    "skillsScore" integer,
    "verificationLevel" text default 'basic' not null,
    "backgroundCheckPassed" boolean default false not null,
    featured boolean default false,
    "earnedAmount" double precision default 0,
    "completedJobs" integer default 0 not null,
    "avatarUrl" text
);

create table blytz_hire.companies (
    id text not null,
    "userId" text not null,
    name text not null,
    bio text,
    country text not null,
    website text,
    "logoUrl" text,
    industry text,
    "companySize" text,
    "foundedYear" integer,
    description text,
    mission text,
    "values" jsonb,
    benefits jsonb,
    email text,
    phone text,
    "verificationLevel" text default 'basic' not null,
    "backgroundCheckPassed" boolean default false not null,
    "featuredCompany" boolean default false not null,
    "socialLinks" jsonb,
    "techStack" jsonb,
    "totalSpent" double precision default 0,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.badges (
    id text not null,
    "vaProfileId" text not null,
    "badgeType" text not null,
    title text not null,
    description text not null,
    icon text not null,
    level text not null,
    "issuedAt" timestamp(3) default current_timestamp not null,
    "expiresAt" timestamp(3)
);

create table blytz_hire.job_postings (
    id text not null,
    "companyId" text not null,
    title text not null,
    description text not null,
    requirements jsonb,
    responsibilities jsonb,
    benefits jsonb,
    "rateRange" text not null,
    budget double precision,
    location text,
    remote boolean default true not null,
    category text,
    tags text[],
    "experienceLevel" text,
    "employmentType" text,
    "jobType" text default 'fixed',
    duration text,
    status text default 'open',
    urgency text default 'medium',
    "skillsRequired" text[],
    "toolsUsed" jsonb,
    "teamSize" integer,
    "reportingTo" text,
    "travelRequired" text,
    "workSchedule" jsonb,
    views integer default 0 not null,
    "proposalCount" integer default 0 not null,
    featured boolean default false not null,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.proposals (
    id text not null,
    "jobPostingId" text not null,
    "vaProfileId" text not null,
    "jobId" text,
    "coverLetter" text not null,
    "bidAmount" double precision not null,
    "bidType" text default 'fixed' not null,
    "hourlyRate" double precision,
    "estimatedHours" double precision,
    "deliveryTime" text not null,
    attachments jsonb,
    status text default 'pending' not null,
    "viewedAt" timestamp(3),
    "respondedAt" timestamp(3),
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.jobs (
    id text not null,
    "jobPostingId" text not null,
    "vaProfileId" text not null,
    "companyId" text not null,
    status text default 'pending' not null,
    title text not null,
    description text not null,
    budget double precision,
    "hourlyRate" double precision,
    "totalHours" double precision,
    "totalAmount" double precision,
    "startDate" timestamp(3),
    "endDate" timestamp(3),
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.matches (
    id text not null,
    "jobPostingId" text not null,
    "vaProfileId" text not null,
    status text default 'active' not null,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.match_votes (
    id text not null,
    "jobPostingId" text not null,
    "vaProfileId" text not null,
    "userId" text not null,
    vote boolean not null,
    "createdAt" timestamp(3) default current_timestamp not null
);

create table blytz_hire.skills_assessments (
    id text not null,
    "vaProfileId" text not null,
    "skillName" text not null,
    category text not null,
    score integer not null,
    difficulty text not null,
    "assessmentType" text not null,
    "completedAt" timestamp(3) default current_timestamp not null,
    "expiresAt" timestamp(3)
);

create table blytz_hire.contracts (
    id text not null,
    "jobId" text not null,
    "jobPostingId" text not null,
    "vaProfileId" text not null,
    "companyId" text not null,
    "proposalId" text,
    "contractType" text not null,
    amount double precision not null,
    "hourlyRate" double precision,
    currency text default 'USD' not null,
    "startDate" timestamp(3) not null,
    "endDate" timestamp(3),
    status text default 'active' not null,
    terms jsonb,
    deliverables jsonb[],
    "milestonesData" jsonb[],
    "paymentSchedule" text default 'upon_completion',
    "totalPaid" double precision default 0 not null,
    "totalHours" double precision,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.milestones (
    id text not null,
    "contractId" text not null,
    "jobId" text not null,
    title text not null,
    description text,
    amount double precision not null,
    status text default 'pending' not null,
    "dueDate" timestamp(3),
    "completedAt" timestamp(3),
    "approvedAt" timestamp(3),
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.timesheets (
    id text not null,
    "contractId" text not null,
    "vaProfileId" text not null,
    "jobId" text not null,
    date timestamp(3) not null,
    "startTime" timestamp(3) not null,
    "endTime" timestamp(3) not null,
    "totalHours" double precision not null,
    description text,
    status text default 'pending' not null,
    "approvedAt" timestamp(3),
    "approvedBy" text,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.invoices (
    id text not null,
    "contractId" text not null,
    "userId" text not null,
    "receiverId" text not null,
    "invoiceNumber" text not null,
    items jsonb[],
    subtotal double precision not null,
    "taxRate" double precision not null,
    "taxAmount" double precision not null,
    discount double precision not null,
    "totalAmount" double precision not null,
    "dueDate" timestamp(3) not null,
    currency text default 'USD' not null,
    status text default 'pending' not null,
    notes text,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.payments (
    id text not null,
    "jobId" text,
    "contractId" text,
    "milestoneId" text,
    "matchId" text,
    "userId" text not null,
    "receiverId" text not null,
    "stripePaymentIntentId" text not null,
    amount integer not null,
    status text not null,
    "stripeFee" integer,
    "platformFee" integer,
    method text not null,
    type text default 'payment' not null,
    metadata jsonb,
    "refundAmount" integer,
    "refundedAt" timestamp(3),
    "processedAt" timestamp(3),
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.reviews (
    id text not null,
    "reviewerId" text not null,
    "targetType" text not null,
    "targetId" text not null,
    rating integer not null,
    comment text,
    categories jsonb,
    helpful integer default 0 not null,
    verified boolean default false not null,
    "createdAt" timestamp(3) default current_timestamp not null,
    "updatedAt" timestamp(3) not null
);

create table blytz_hire.notifications (
    id text not null,
    "userId" text not null,
    type text not null,
    title text not null,
    message text not null,
    data jsonb,
    read boolean default false not null,
    priority text default 'normal' not null,
    channels jsonb,
    "expiresAt" timestamp(3),
    "createdAt" timestamp(3) default current_timestamp not null
);

create table blytz_hire.portfolio_items (
    id text not null,
    "vaProfileId" text not null,
    title text not null,
    description text not null,
    "fileUrl" text not null,
    "fileType" text not null,
    "thumbnailUrl" text,
    category text,
    technologies text[],
    featured boolean default false not null,
    "projectUrl" text,
    "createdAt" timestamp(3) default current_timestamp not null
);
