-- Which extensions a server offers, and which are installed in this database. The setting
-- split.followed names them.
select
    wanted.name,
    wanted.name in (select offered.name from pg_available_extensions as offered) as is_offered,
    wanted.name in (select installed.extname from pg_extension as installed) as is_installed
from jsonb_array_elements_text(current_setting('split.followed')::jsonb) as wanted (name)
order by 1
