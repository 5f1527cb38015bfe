{#
    url_without_query(url): a URL up to its query string or fragment, without white space around it.

    | input                          | call                     | output                     |
    |--------------------------------|--------------------------|----------------------------|
    | https://example.com/a.pdf?v=1#2| url_without_query('url') | https://example.com/a.pdf  |
    | ' a.pdf '                      |                          | a.pdf                      |

    Collation C, so that what is made of it is the same on every server.
#}
{% macro url_without_query(url) -%}
    split_part(split_part(btrim({{ url }}, e' \t\r\n') collate "C", '#', 1), '?', 1)
{%- endmacro %}
