{#
    units_to_cents(units): an amount in major units as whole cents.

    | input         | call                     | output          |
    |---------------|--------------------------|-----------------|
    | 19.99         | units_to_cents('amount') | 1999            |
    | 5             |                          | 500             |
    | null          |                          | null            |

    The inverse of cents_to_units. What is finer than a cent or too large for an integer is
    refused by the tables' checks.
#}
{% macro units_to_cents(units) -%}
    ({{ units }} * 100)::integer
{%- endmacro %}
