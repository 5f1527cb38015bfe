-- Notifications like the sample's, chat messages among them; ids are random in order.

create temp table sample_notifications as
select *, row_number() over (order by id) - 1 as no
from blytz_hire.notifications;
analyze sample_notifications;

-- The references are those of rows that are there, so looking each up again is spared.
set session_replication_role = replica;
insert into blytz_hire.notifications (
    id, "userId", type, title, message, data, read, priority, channels, "expiresAt", "createdAt"
)
select
    'c' || substr(md5('notified' || i::text), 1, 24),
    "userId",
    type,
    title,
    message,
    data,
    read,
    priority,
    channels,
    "expiresAt",
    "createdAt" + i * interval '7 milliseconds'
from
    generate_series(1, %(more)s::bigint) as i
    inner join sample_notifications on sample_notifications.no = mod(i, %(sample)s);
reset session_replication_role;
analyze blytz_hire.notifications;
