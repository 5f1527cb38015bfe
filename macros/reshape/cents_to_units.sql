{#
    cents_to_units(cents): whole cents as an exact amount in major units, two decimals.

    | input         | call                     | output          |
    |---------------|--------------------------|-----------------|
    | 1999          | cents_to_units('amount') | 19.99           |
    | null          |                          | null            |

    Its reverse is units_to_cents.
#}
{% macro cents_to_units(cents) -%}
    round({{ cents }} / 100.0, 2)
{%- endmacro %}
