-- From version 2 to version 3.
lock table split.turn in exclusive mode;

-- When the last switch was that a rollback has ended is not known of earlier ones.
alter table split.service add column ended_switch timestamptz;
