{#
    json_text(document, key): what stands under a key, if that is text.

    | input                  | call                        | output |
    |------------------------|-----------------------------|--------|
    | {"senderName": "Ann"}  | json_text('data', 'senderName') | Ann    |
    | {"senderName": ""}     |                             | ''     |
    | {"senderName": null}   |                             | null   |
    | {"senderName": 7}, {}  |                             | null   |

    Its reverse is `to_jsonb(text)`; what is not text has to stay in the document.
#}
{% macro json_text(document, key) -%}
    case
        when jsonb_typeof({{ document }} -> '{{ key }}') = 'string'
            then {{ document }} ->> '{{ key }}'
    end
{%- endmacro %}
