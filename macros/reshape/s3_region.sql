{#
    s3_region(host): the region that an S3 host names; null when it names none.

    | input                              | call              | output    |
    |------------------------------------|-------------------|-----------|
    | bucket.s3.eu-west-2.amazonaws.com  | s3_region('host') | eu-west-2 |
    | s3-us-gov-west-1.amazonaws.com     |                   | us-gov-west-1 |
    | bucket.s3.amazonaws.com            |                   | null      |

    Hosts are given in lower case and without a port.
#}
{% macro s3_region(host) -%}
    substring({{ host }} from '[.-]([a-z]{2}-(?:[a-z]+-)+[0-9]+)\.amazonaws\.com')
{%- endmacro %}
