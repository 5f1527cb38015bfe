select
    id,
    va_profile_id,
    skill_name,
    category,
    difficulty,
    assessment_type,
    score,
    completed_at,
    expires_at
from {{ source('market', 'skills_assessments') }}
