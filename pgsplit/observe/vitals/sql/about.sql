select
    clock_timestamp() as now,
    pg_database_size(current_database()) as bytes,
    obj_description(to_regnamespace('split'), 'pg_namespace') as mark,
    pg_has_role('pg_read_all_stats', 'usage') as sees_statistics,
    quote_ident(current_user) as login;
