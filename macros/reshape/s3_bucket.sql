{#
    s3_bucket(host): the bucket that an S3 host names, '' if the path does, null if the host is not S3's.

    | input                             | call              | output    |
    |-----------------------------------|-------------------|-----------|
    | my.bucket.s3.amazonaws.com        | s3_bucket('host') | my.bucket |
    | bucket.s3.eu-west-2.amazonaws.com |                   | bucket    |
    | bucket.s3-eu-west-2.amazonaws.com |                   | bucket    |
    | s3.eu-west-2.amazonaws.com        |                   | ''        |
    | bucket.s3.amazonaws.com.example   |                   | null      |

    The host is given in lower case. A bucket's website is no object store.
#}
{% macro s3_bucket(host) -%}
    nullif(
        regexp_replace(
            {{ host }},
            '(^|\.)s3(-accelerate|-fips)?(\.dualstack)?([.-][a-z]{2}-([a-z]+-)+[0-9]+)?'
            || '\.amazonaws\.com(\.cn)?(:[0-9]+)?$',
            ''
        ),
        {{ host }}
    )
{%- endmacro %}
