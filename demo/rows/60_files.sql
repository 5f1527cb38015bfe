-- Portfolio items; the other file addresses stand in the rows they belong to.

insert into blytz_hire.portfolio_items (
    id, "vaProfileId", title, description, "fileUrl", "fileType", "thumbnailUrl", category,
    technologies, featured, "projectUrl", "createdAt"
)
select
    pg_temp.id('portfolio', i),
    pg_temp.id('va', pg_temp.pick(i, 701, plan.va_profiles)),
    pg_temp.one_of(i, 702, 'Online shop', 'Podcast', 'Livre de recettes', '年次報告', 'Newsletter'),
    case
        when i % 1000 = 25 then pg_temp.long_text(i)
        else pg_temp.odd_text(i, pg_temp.prose(i, 703))
    end,
    pg_temp.file_url('portfolio', i, pg_temp.one_of(i, 706, 'pdf', 'png', 'mp4', 'tar.gz')),
    pg_temp.one_of(i, 707, 'application/pdf', 'image/png', 'video', ''),
    case when i % 3 > 0 then pg_temp.file_url('thumbnails', i + 1, 'jpg') end,
    case when i % 4 > 0 then pg_temp.one_of(i, 708, 'design', 'writing', 'video & audio') end,
    case when i % 9 < 8 then pg_temp.odd_tags(i, array['Figma', 'WordPress']) end,
    i % 10 = 1,
    case when i % 2 > 0 then 'https://project' || i::text || '.example.com/?a=1&b=%20' end,
    pg_temp.moment(i, 709)
from plan, generate_series(1, plan.portfolio_items) as i;
