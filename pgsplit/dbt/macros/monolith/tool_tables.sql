{#
    tool_tables(): tables in which tools that change a schema note what they did, as rows of a
    `values` list. They belong to the monolith alone, so a split passes them over.

    | table_name         | column_names          | tool   |
    |--------------------|-----------------------|--------|
    | _prisma_migrations | checksum, logs, …     | Prisma |

    A table is a tool's only if it has these columns too, in any spelling: an application may call a
    table of its own `migrations`. A tool is added by adding its line.
#}
{% macro tool_tables() -%}
    {{ pgsplit.values_list([
        ('_prisma_migrations', 'checksum, migration_name, applied_steps_count', 'Prisma'),
        ('flyway_schema_history', 'installed_rank, script, checksum', 'Flyway'),
        ('schema_version', 'installed_rank, script, checksum', 'Flyway'),
        ('databasechangelog', 'id, author, filename, dateexecuted, md5sum', 'Liquibase'),
        ('databasechangeloglock', 'id, locked, lockgranted, lockedby', 'Liquibase'),
        ('alembic_version', 'version_num', 'Alembic'),
        ('schema_migrations', 'version', 'Rails, golang-migrate, Ecto or dbmate'),
        ('ar_internal_metadata', 'key, value, created_at', 'Rails'),
        ('knex_migrations', 'id, name, batch, migration_time', 'Knex'),
        ('knex_migrations_lock', 'index, is_locked', 'Knex'),
        ('sequelizemeta', 'name', 'Sequelize'),
        ('sequelizedata', 'name', 'Sequelize'),
        ('migrations', 'id, timestamp, name', 'TypeORM'),
        ('migrations', 'id, migration, batch', 'Laravel'),
        ('migrations', 'id, name, run_on', 'db-migrate'),
        ('typeorm_metadata', 'type, database, schema, table, name, value', 'TypeORM'),
        ('mikro_orm_migrations', 'id, name, executed_at', 'MikroORM'),
        ('pgmigrations', 'id, name, run_on', 'node-pg-migrate'),
        ('kysely_migration', 'name, timestamp', 'Kysely'),
        ('kysely_migration_lock', 'id, is_locked', 'Kysely'),
        ('__drizzle_migrations', 'id, hash, created_at', 'Drizzle'),
        ('django_migrations', 'app, name, applied', 'Django'),
        ('_yoyo_migration', 'migration_hash, migration_id, applied_at_utc', 'yoyo'),
        ('_yoyo_log', 'migration_hash, operation, created_at_utc', 'yoyo'),
        ('_yoyo_version', 'version, installed_at_utc', 'yoyo'),
        ('yoyo_lock', 'locked, ctime, pid', 'yoyo'),
        ('goose_db_version', 'version_id, is_applied, tstamp', 'Goose'),
        ('atlas_schema_revisions', 'version, description, executed_at, hash', 'Atlas'),
        ('bun_migrations', 'id, name, group_id, migrated_at', 'Bun'),
        ('bun_migration_locks', 'id, table_name', 'Bun'),
        ('gorp_migrations', 'id, applied_at', 'sql-migrate'),
        ('_sqlx_migrations', 'version, checksum, success, execution_time', 'SQLx'),
        ('__diesel_schema_migrations', 'version, run_on', 'Diesel'),
        ('refinery_schema_history', 'version, name, applied_on, checksum', 'Refinery'),
        ('seaql_migrations', 'version, applied_at', 'SeaORM'),
        ('__efmigrationshistory', 'migrationid, productversion', 'Entity Framework'),
        ('versioninfo', 'version, appliedon, description', 'FluentMigrator'),
        ('schemaversions', 'scriptname, applied', 'DbUp'),
        ('doctrine_migration_versions', 'version, executed_at, execution_time', 'Doctrine'),
        ('phinxlog', 'version, migration_name, start_time, end_time', 'Phinx')
    ]) }}
{%- endmacro %}
