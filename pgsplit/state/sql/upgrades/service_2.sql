-- From version 1 to version 2.
lock table split.turn in exclusive mode;

alter table split.service
add column failed_at timestamptz,
add column failure text,
add column keeps_replaced boolean not null default false,
add column ended_switch timestamptz;
-- What it has written since the switch may be nowhere else.
update split.service set keeps_replaced = switched_at is not null;
