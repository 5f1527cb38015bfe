{#
    file_name(url): the last segment of a URL's path, as it stands there; null when there is none.

    | input                                    | call             | output               |
    |------------------------------------------|------------------|----------------------|
    | https://example.com/a/My%20CV.pdf?v=1#2  | file_name('url') | My%20CV.pdf          |
    | /uploads/photo.png                       |                  | photo.png            |
    | available on request                     |                  | available on request |
    | https://example.com/a/                   |                  | null                 |
    | https://example.com                      |                  | null                 |
    | data:image/png;base64,iVBORw0KGgo=       |                  | null                 |

    Percent-encoding stays: what it decodes to need not be text.
#}
{% macro file_name(url) -%}
    nullif(
        split_part(
            regexp_replace(
                {{ url_without_query(url) }},
                '^data:.*|^([a-z][a-z0-9+.-]*:)?//[^/]*',
                '',
                'i'
            ),
            '/',
            -1
        ),
        ''
    )
{%- endmacro %}
