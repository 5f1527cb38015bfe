{#
    is_chat_message(): whether a row of the monolith's notifications is a usable chat message.

    | type         | data                                        | output |
    |--------------|---------------------------------------------|--------|
    | chat_message | {"senderId": "c1"}                          | true   |
    | chat_message | null, [], {}, {"senderId": …}: null, "" or 7 | false  |
    | other        | any                                         | false  |

    Never null, so a row is either a chat message or a notification.
#}
{% macro is_chat_message() -%}
    (
        type = 'chat_message'
        and jsonb_typeof(data -> 'senderId') = 'string'
        and data ->> 'senderId' <> ''
    ) is true
{%- endmacro %}
