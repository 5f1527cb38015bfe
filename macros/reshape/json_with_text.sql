{#
    json_with_text(document, key, text): a document that says this text under a key, or has no such
    key where the text is null; the very document if it reads so already.

    | document         | call                                  | text | output                |
    |------------------|---------------------------------------|------|-----------------------|
    | {"why": "late"}  | json_with_text('data', 'why', 'text') | lost | {"why": "lost"}       |
    | {"why": "late"}  |                                       | null | {}                    |
    | {"why": 7}       |                                       | 7    | {"why": 7}            |
    | {"why": null}    |                                       | null | {"why": null}         |
    | null             |                                       | late | {"why": "late"}       |
    | [1], "x", 'null' |                                       | late | as it is: no key fits |

    The inverse of `document ->> key`.
#}
{% macro json_with_text(document, key, text) -%}
    case
        when ({{ document }} ->> '{{ key }}' is not distinct from {{ text }}) then {{ document }}
        when jsonb_typeof({{ document }}) <> 'object' then {{ document }}
        when {{ text }} is null then {{ document }} - '{{ key }}'
        else coalesce({{ document }}, '{}') || jsonb_build_object('{{ key }}', {{ text }})
    end
{%- endmacro %}
