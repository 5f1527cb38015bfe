-- Notifications, six in ten of which are chat messages.

-- data is what the client wrote; who is the senderId added to that, if any.
create temp table odd_notification as
select * from (
    values
        -- chat messages, usable
        (1, 'chat_message', 'other', '{"senderName": "Maya", "senderRole": "company",'
            ' "timestamp": "2025-03-01T10:00:00.000Z", "type": "text"}'),
        (2, 'chat_message', 'other', '{"senderName": "José", "senderRole": "va", "type": "image",'
            ' "timestamp": "2025-03-01T10:00:00.123Z", "attachmentUrl": "https://blytz-hire-'
            'uploads.s3.amazonaws.com/chat/a%20b.png"}'),
        (3, 'chat_message', 'other', '{"senderName": "李", "senderRole": "va", "type": "file",'
            ' "timestamp": "2025-03-01T10:00:01.000Z", "file": {"size": 1.50, "tags": [null]}}'),
        -- a time that is missing or is none
        (4, 'chat_message', 'other', '{"senderName": "Maya", "senderRole": "company"}'),
        (5, 'chat_message', 'other', '{"senderName": "Maya", "timestamp": "yesterday at noon"}'),
        (6, 'chat_message', 'other', '{"senderRole": "va", "timestamp": 1740823200000}'),
        (7, 'chat_message', 'other', '{"senderRole": "va", "timestamp": ""}'),
        (8, 'chat_message', 'other', '{"senderRole": "va", "timestamp": null}'),
        (9, 'chat_message', 'other', '{"timestamp": "2025-03-01T10:00:00+02:00"}'),
        (10, 'chat_message', 'other', '{"timestamp": "2025-03-01T10:00:00.123456Z"}'),
        (11, 'chat_message', 'other', '{"timestamp": "2025-02-30T10:00:00.000Z"}'),
        (12, 'chat_message', 'other', '{"timestamp": {"seconds": 1740823200}}'),
        -- little or odd company for the sender
        (13, 'chat_message', 'other', '{}'),
        (14, 'chat_message', 'other', '{"senderName": null, "senderRole": null, "type": null}'),
        (15, 'chat_message', 'other', '{"senderName": "", "senderRole": "", "type": "sticker"}'),
        (16, 'chat_message', 'other', '{"senderName": "\"O\u0027Brien\" 🚀", "type": ["text"]}'),
        (17, 'chat_message', 'self', '{"senderName": "Me", "type": "text"}'),
        (18, 'chat_message', 'self', '{"timestamp": "2025-03-01T10:00:00.000Z"}'),
        (19, 'chat_message', 'gone', '{"senderName": "Deleted user", "type": "text"}'),
        -- chat messages, not usable
        (20, 'chat_message', 'none', null),
        (21, 'chat_message', 'none', 'null'),
        (22, 'chat_message', 'none', '{}'),
        (23, 'chat_message', 'none', '{"senderName": "Maya", "type": "text"}'),
        (24, 'chat_message', 'none', '{"senderId": null, "senderName": "Maya"}'),
        (25, 'chat_message', 'none', '{"senderId": "", "senderName": "Maya"}'),
        (26, 'chat_message', 'none', '[]'),
        (27, 'chat_message', 'none', '["senderId", {"senderId": "inside"}]'),
        (28, 'chat_message', 'none', '"senderId"'),
        (29, 'chat_message', 'none', '7'),
        -- near misses
        (30, 'chat_message', 'none', '{"senderid": "wrong case", "sender": {"senderId": "deep"}}'),
        (31, 'payment_received', 'other', '{"senderName": "not a chat message"}'),
        (32, 'Chat_Message', 'other', '{"senderName": "not the type"}'),
        (33, 'chat_message ', 'other', '{"senderName": "nor is this"}'),
        (34, 'system', 'none', '[1, "two", null]'),
        (35, 'system', 'none', '{}'),
        (36, '', 'none', null)
) as odd (no, type, who, data);

insert into blytz_hire.notifications (
    id, "userId", type, title, message, data, read, priority, channels, "expiresAt",
    "createdAt"
)
select
    pg_temp.id('notification', i),
    recipient,
    kind.type,
    case kind.type
        when 'chat_message' then pg_temp.one_of(i, 601, 'New message', 'Nuevo mensaje', '新消息')
        else pg_temp.one_of(i, 602, 'Heads up', 'Good news', 'Action needed')
    end,
    case
        when i % 1000 = 61 then pg_temp.long_text(i)
        when kind.type = 'chat_message' then pg_temp.odd_text(
            i,
            pg_temp.one_of(
                i, 603,
                'Thanks!', 'On it 👍', 'Can we move the call to 15:00?', 'Done, please check.',
                '¿Tienes un minuto?', 'See the file.', 'ok', 'Invoice sent'
            ) || ' ' || pg_temp.prose(i, 604)
        )
        else pg_temp.prose(i, 607)
    end,
    case
        when odd.who = 'none' then odd.data::jsonb
        when odd.no is not null then odd.data::jsonb || jsonb_build_object(
            'senderId',
            case odd.who
                when 'self' then recipient
                when 'gone' then pg_temp.gone_id('user', i)
                else sender
            end
        )
        when i % 1000 = 62 then jsonb_build_object(
            'senderId', sender, 'quote', pg_temp.long_text(i)
        )
        when kind.type = 'chat_message' then jsonb_build_object(
            'senderId', sender,
            'senderName', pg_temp.one_of(deal, 610 + i % 2, 'Maya', 'José', 'Zoë', '李', 'Tom'),
            'senderRole', case when i % 2 = 0 then 'va' else 'company' end,
            'timestamp', pg_temp.iso(created)
        ) || case
            when i % 30 = 17 then jsonb_build_object(
                'type', pg_temp.one_of(i, 612, 'image', 'file'),
                'attachmentUrl', pg_temp.file_url('chat', i, 'png')
            )
            when i % 3 > 0 then '{"type": "text"}'
            else '{}'
        end
        when i % 5 > 0 then jsonb_build_object('link', '/app/items/' || i::text)
    end,
    i % 3 > 0,
    pg_temp.one_of(i, 613, 'normal', 'normal', 'normal', 'low', 'high'),
    case when i % 4 > 0 then pg_temp.odd_json(i - 1, '["in_app", "email"]') end,
    case when i % 6 = 5 then created + pg_temp.hours(2160) end,
    created
from
    (
        select
            i,
            deal,
            -- a burst of six rows is one conversation, in turns
            pg_temp.id('user', case when i % 2 = 0 then owner else va end) as recipient,
            pg_temp.id('user', case when i % 2 = 0 then va else owner end) as sender,
            pg_temp.moment(i / 6, 614) + interval '47.011 seconds' * (i % 6) as created
        from (
            select
                i,
                deal,
                pg_temp.deal_va(deal, plan.va_profiles) as va,
                pg_temp.company_user(
                    pg_temp.deal_company(deal, plan.job_postings, plan.companies),
                    plan.va_profiles
                ) as owner
            from
                plan,
                generate_series(1, plan.notifications) as i,
                pg_temp.pick(i / 6, 615, plan.contracts) as deal
            offset 0
        ) as talk
        offset 0
    ) as message
    left join odd_notification as odd on odd.no = pg_temp.odd(i, 36),
    lateral (
        select coalesce(
            odd.type,
            case when i / 6 % 10 < 6 then 'chat_message' end,
            pg_temp.one_of(
                i, 616, 'proposal_received', 'payment_received', 'contract_signed', 'match_found'
            )
        ) as type
    ) as kind;
