-- Which of these extensions a server offers, and which are installed in this database.
select
    wanted.name,
    exists (select from pg_available_extensions as offered where offered.name = wanted.name),
    exists (select from pg_extension as installed where installed.extname = wanted.name)
from unnest(%s::text[]) as wanted (name)
order by 1
