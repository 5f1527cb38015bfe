{#
    file_extension(name): what follows a file name's last dot, in lower case; null when there is none.

    | input                   | call                   | output |
    |-------------------------|------------------------|--------|
    | photo.JPG               | file_extension('name') | jpg    |
    | site.v1.2.tar.gz        |                        | gz     |
    | .hidden, README, a file.|                        | null   |
    | see page 2. Thanks!     |                        | null   |

    Letters and digits only: anything else behind a dot is prose. Collation C, so that I is
    i on every server.
#}
{% macro file_extension(name) -%}
    lower(substring({{ name }} collate "C" from '.\.([A-Za-z0-9]+)$'))
{%- endmacro %}
