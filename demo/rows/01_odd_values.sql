-- The values that real rows hold and tidy samples do not. Each function gives the usual value
-- that it is handed, except in odd rows.

create function pg_temp.odd_text(i bigint, usual text) returns text
immutable language sql
return coalesce(
    (array[
        '',
        ' ',
        '  padded on both sides  ',
        'It''s "quoted", ''twice'', and `ticked`',
        'C:\temp\new\\file',
        E'line one\nline two\r\nline three\n',
        E'tab\tseparated\tvalues',
        '👩🏽‍💻 ships 🚀 at 03:00 🏳️‍🌈',
        '虚拟助理，随时待命。日本語もできます。한국어도',
        'مساعد افتراضي متاح الآن (24/7)',
        'עוזר וירטואלי – mixed with English',
        E'e\u0301 is not \u00e9, A\u030A is not \u00c5',
        E'\ufeffbyte order mark, zero\u200bwidth, no\u00a0break',
        'NULL',
        '\N',
        '{"json": "in text"}',
        '{a,b,"c"}',
        '<b>bold</b> & <script>alert(1)</script>',
        '''; drop table users; --',
        '%s %(name)s $1 $$ {{ ref("users") }} {% raw %}',
        E'control \x01 \x1f \x7f characters',
        'trailing backslash \',
        '𝒳 outside the basic plane 🂡 and ﷽',
        'ß ẞ ı İ ǅ ﬁ Ω'
    ])[pg_temp.odd(i, 24)],
    usual
);

-- Too long to stand in its row, so PostgreSQL stores it apart.
create function pg_temp.long_text(i bigint) returns text
immutable language sql
return (
    select string_agg(md5(i::text || ' ' || part::text), ' ' order by part)
    from generate_series(1, 200) as part
);

create function pg_temp.odd_json(i bigint, usual jsonb) returns jsonb
immutable language sql
return coalesce(
    (array[
        'null',
        '{}',
        '[]',
        '""',
        'true',
        '{"n": 1.10, "big": 12345678901234567890, "tiny": 1e-30, "sum": 0.30000000000000004}',
        '{"a key": {"with.dots": [null, "", [], {}]}, "quote\"": "tab\t, \\ and \n", "名": "🚀"}',
        '"just a string"',
        '1.50'
    ]::jsonb[])[pg_temp.odd(i, 9)],
    usual
);

-- Only the first rows, or their sums would drown every other amount.
create function pg_temp.odd_double(i bigint, usual double precision) returns double precision
immutable language sql
return coalesce(
    (array[
        0.1::double precision + 0.2::double precision,
        1::double precision / 3,
        0,
        123456789.12345679,
        1.2345678901234567e-300,
        9.8765432109876543e+300,
        9007199254740993,
        -12.5,
        1.005,
        5e-324
    ]::double precision[])[i],
    usual
);

create function pg_temp.odd_tags(i bigint, usual text[]) returns text[]
immutable language sql
return case pg_temp.odd(i, 7)
    when 1 then '{}'
    when 2 then array[null]::text[]
    when 3 then array['comma, inside', 'quote " inside', 'back\slash', '{brace}']
    when 4 then array['', 'NULL', null, ' ']
    when 5 then array['日本語', 'العربية', '🚀']
    when 6 then array[E'new\nline', E'tab\t']
    when 7 then array['twice', 'twice']
    else usual
end;

create function pg_temp.odd_jsons(i bigint, usual jsonb[]) returns jsonb[]
immutable language sql
return case pg_temp.odd(i, 6)
    when 1 then '{}'
    when 2 then array[null]::jsonb[]
    when 3 then array['null', '{}', '[]', '"text"', '7']::jsonb[]
    when 4 then array['{"title": "comma, \"quote\", \\ and }"}', null]::jsonb[]
    when 5 then array['{"title": "第一阶段 🚀", "amount": 1.10}']::jsonb[]
    when 6 then array['[{"nested": [1, [2, [3]]]}]']::jsonb[]
    else usual
end;

create function pg_temp.file_url(folder text, i bigint, extension text) returns text
immutable language sql
return coalesce(
    (array[
        'https://blytz-hire-uploads.s3.us-east-1.amazonaws.com/region/one.png',
        'https://drive.google.com/file/d/1AbCdEfG/view?usp=sharing',
        'https://blytz-hire-uploads.s3.amazonaws.com/resumes/My%20CV%20(final)%2B.pdf',
        '',
        'https://blytz-hire-uploads.s3.amazonaws.com/resumes/My CV final.pdf',
        '/uploads/relative/path.png',
        'https://blytz-hire-uploads.s3.amazonaws.com/portfolio/作品集-é-📁.zip',
        'available on request',
        'https://blytz-hire-uploads.s3.amazonaws.com/deck.pdf?X-Amz-Expires=3600&sig=a%2Fb#page=2',
        'http://example.com/cv.pdf',
        'https://blytz-hire-uploads.s3.amazonaws.com/portfolio/README',
        'https://blytz-hire-uploads.s3.amazonaws.com/backup/site.v1.2.tar.gz',
        'https://blytz-hire-uploads.s3.amazonaws.com/folder.with.dots/file',
        'https://my.dotted.bucket.s3.eu-west-2.amazonaws.com/photo.JPG',
        'https://s3.amazonaws.com/blytz-hire-uploads/path/style.png',
        'https://blytz-hire-uploads.s3.amazonaws.com/',
        'https://blytz-hire-uploads.s3.amazonaws.com',
        'HTTPS://blytz-hire-uploads.S3.AmazonAWS.com/upper/host.png',
        'https://example.com/go?to=https://blytz-hire-uploads.s3.amazonaws.com/other.png',
        'https://blytz-hire-uploads.s3.amazonaws.com/trailing/slash/',
        'https://blytz-hire-uploads.s3.amazonaws.com//double//slash.png',
        'https://blytz-hire-uploads.s3.amazonaws.com/dir/.hidden',
        ' https://blytz-hire-uploads.s3.amazonaws.com/padded.png ',
        'data:image/png;base64,iVBORw0KGgo=',
        's3://blytz-hire-uploads/key.png',
        E'https://blytz-hire-uploads.s3.amazonaws.com/line\nbreak.png'
    ])[pg_temp.odd(i, 26)],
    'https://blytz-hire-uploads.s3.amazonaws.com/' || folder || '/'
        || md5(folder || i::text) || '.' || extension
);

create function pg_temp.person(i bigint) returns text
immutable language sql
return pg_temp.odd_text(
    i - 7,
    pg_temp.one_of(
        i, 21,
        'Maya', 'José', 'Zoë', 'Nguyễn', 'Amara', 'Liam', 'Priya', 'Þóra', 'Mateo', 'Fatima',
        'Seán', 'Ivana', 'Kwame', 'Chloé', 'Marek', 'Aiko', 'Joy', 'Diego', 'Leila', 'Tom'
    ) || ' ' || pg_temp.one_of(
        i, 22,
        'Okafor', 'O''Brien', 'Silva', 'García-López', 'Müller', 'Reyes', 'Tanaka', 'Khan',
        'Novák', 'de la Cruz', 'Kowalski', 'Smith', 'Santos', 'Ødegård', 'Rossi', 'Mensah'
    )
);

-- A line or two of plain prose.
create function pg_temp.prose(i bigint, seed bigint) returns text
immutable language sql
return pg_temp.one_of(
    i, seed,
    'Looking after', 'Experienced in', 'We need help with', 'Happy to take on',
    'Weekly work on', 'Please send an update about', 'Finished', 'Still waiting for'
) || ' ' || pg_temp.one_of(
    i, seed + 1,
    'calendar and inbox management', 'customer support in two time zones',
    'bookkeeping and invoices', 'product listings and photographs', 'social media campaigns',
    'lead research and data entry', 'travel planning', 'podcast editing and show notes'
) || ', ' || pg_temp.one_of(
    i, seed + 2,
    'twenty hours a week.', 'starting on Monday.', 'with a daily summary.', 'as agreed.',
    'in English and Spanish.', 'for a growing team.', 'before the end of the month.',
    'see the shared document.'
);
