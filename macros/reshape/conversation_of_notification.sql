{#
    conversation_of_notification(): the conversation that a row of the monolith's notifications
    belongs to; null if it is no chat message.

    | userId | data                | output                                 |
    |--------|---------------------|----------------------------------------|
    | ann    | {"senderId": "bob"} | conversation_id of ann and bob         |
    | ann    | {}                  | null                                   |

    Immutable, so an index may be built on it.
#}
{% macro conversation_of_notification() -%}
    case when {{ is_chat_message() }} then {{ conversation_id('"userId"', "(data ->> 'senderId')") }} end
{%- endmacro %}
