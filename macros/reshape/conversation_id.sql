{#
    conversation_id(one, other): the id of the conversation between two users.

    | input             | call                                   | output              |
    |-------------------|----------------------------------------|---------------------|
    | 'ann', 'bob'      | conversation_id('sender', 'recipient') | md5 of `3:annbob`   |
    | 'bob', 'ann'      |                                        | the same            |
    | 'ann', 'ann'      |                                        | md5 of `3:annann`   |

    The ids are put in byte order, which is the same on every server, and the length of the
    first keeps ('ab', 'c') and ('a', 'bc') apart. Immutable, so an index may be built on it.
#}
{% macro conversation_id(one, other) -%}
    {%- set first = 'least(' ~ one ~ ' collate "C", ' ~ other ~ ' collate "C")' -%}
    {%- set second = 'greatest(' ~ one ~ ' collate "C", ' ~ other ~ ' collate "C")' -%}
    md5(octet_length({{ first }})::text || ':' || {{ first }} || {{ second }})
{%- endmacro %}
