{#
    storage_providers(): the object stores that a file's URL may lead to, as rows of a `values` list.

    | column    | meaning                                                                          |
    |-----------|----------------------------------------------------------------------------------|
    | provider  | what storage_references calls it                                                 |
    | scheme    | of a URI such as `s3://bucket/key`; '' is https, http, or none                   |
    | domain    | a part of the host that all of them have; it spares most regular expressions     |
    | host      | the whole host, as a regular expression: first the bucket in parentheses, if the |
    |           | host may name one, then the region; `()` stands for one that it never names      |
    | prefix    | what comes before bucket and key in the path, as a regular expression            |
    | separator | what comes between bucket and key in the path                                    |

    The first row that matches counts. Where the host names no bucket, the path does. Another store,
    or a company's own host in front of one, is another line here.
#}
{% macro storage_providers() -%}
    {%- set region = '[a-z]{2}-(?:[a-z]+-)+[0-9]+' -%}
    {{ pgsplit.values_list([
        ('s3', 's3:', '', '(.+)()', '/', '/'),
        ('s3', 's3a:', '', '(.+)()', '/', '/'),
        ('s3', 's3n:', '', '(.+)()', '/', '/'),
        ('gcs', 'gs:', '', '(.+)()', '/', '/'),
        ('b2', 'b2:', '', '(.+)()', '/', '/'),
        ('oss', 'oss:', '', '(.+)()', '/', '/'),
        ('s3', '', 'amazonaws.com',
            '(?:(.+)\.)?s3(?:-accelerate|-fips)?(?:\.dualstack)?(?:[.-](' ~ region ~ '))?\.amazonaws\.com(?:\.cn)?', '/', '/'),
        ('s3', '', 'amazonaws.com', '(.+)\.s3-website[.-](' ~ region ~ ')\.amazonaws\.com(?:\.cn)?', '/', '/'),
        ('r2', '', 'r2.cloudflarestorage.com', '(?:(.+)\.)?[0-9a-f]{32}\.(?:(eu|fedramp|us)\.)?r2\.cloudflarestorage\.com', '/', '/'),
        ('r2', '', '.r2.dev', '(pub-[0-9a-z]+)()\.r2\.dev', '/', '/'),
        ('gcs', '', 'firebasestorage', '()()firebasestorage\.googleapis\.com', '/v0/b/', '/o/'),
        ('gcs', '', 'googleapis.com', '()()(?:storage|www)\.googleapis\.com', '(?:/download|/upload)?/storage/v1/b/', '/o/'),
        ('gcs', '', 'googleapis.com', '(?:(.+)\.)?(?:commondata)?storage(?:\.(.+)\.rep)?\.googleapis\.com', '/', '/'),
        ('gcs', '', 'storage.cloud.google.com', '()()storage\.cloud\.google\.com', '/', '/'),
        ('azure', '', '.core.', '()()[0-9a-z-]+\.(?:blob|dfs)\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)', '/', '/'),
        ('azure', '', 'storage.azure.net', '()()[0-9a-z-]+\.z[0-9]+\.(?:blob|dfs)\.storage\.azure\.net', '/', '/'),
        ('b2', '', 'backblazeb2.com', '(?:(.+)\.)?s3\.([a-z0-9-]+)\.backblazeb2\.com', '/', '/'),
        ('b2', '', 'backblazeb2.com', '()()f[0-9]+\.backblazeb2\.com', '/file/', '/'),
        ('spaces', '', 'digitaloceanspaces.com', '(?:(.+)\.)?([a-z]{3}[0-9])(?:\.cdn)?\.digitaloceanspaces\.com', '/', '/'),
        ('supabase', '', 'supabase.', '()()[a-z0-9-]+(?:\.storage)?\.supabase\.(?:co|in)',
            '/storage/v1/(?:object|render/image)/(?:public/|sign/|authenticated/)?', '/'),
        ('supabase', '', 'supabase.', '()()[a-z0-9-]+(?:\.storage)?\.supabase\.(?:co|in)', '/storage/v1/s3/', '/'),
        ('minio', '', 'min.io', '(?:(.+)\.)?play()\.min\.io', '/', '/'),
        ('minio', '', 'minio', '(?:(.+)\.)?minio()(?:-[a-z0-9-]+)?(?:\..+)?', '/', '/'),
        ('wasabi', '', 'wasabisys.com', '(?:(.+)\.)?s3(?:\.([a-z0-9-]+))?\.wasabisys\.com', '/', '/'),
        ('linode', '', 'linodeobjects.com', '(?:(.+)\.)?([a-z]{2}-[a-z]+-[0-9]+)\.linodeobjects\.com', '/', '/'),
        ('scaleway', '', 'scw.cloud', '(?:(.+)\.)?s3\.([a-z]{2}-[a-z]{3})\.scw\.cloud', '/', '/'),
        ('hetzner', '', 'your-objectstorage.com', '(?:(.+)\.)?([a-z]{3}[0-9])\.your-objectstorage\.com', '/', '/'),
        ('oss', '', 'aliyuncs.com', '(?:(.+)\.)?oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com', '/', '/'),
        ('cos', '', 'myqcloud.com', '(.+)\.cos\.([a-z0-9-]+)\.myqcloud\.com', '/', '/'),
        ('oracle', '', 'oraclecloud.com', '()objectstorage\.([a-z0-9-]+)\.oraclecloud\.com', '/n/[^/]+/b/', '/o/')
    ]) }}
{%- endmacro %}
