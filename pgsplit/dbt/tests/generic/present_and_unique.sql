{#
    present_and_unique: the rows are as the model's constraints `primary_key`, `unique` and `not_null`
    say, those of its columns and those of the table. What unique and not_null would say column by
    column, in one test; a column without such a constraint can have those tests besides.

    Returns the key of each row that breaks one, with what is wrong: `email is null`. A table that
    belongs to the service's team has the constraints that its team wants.
#}
{% test present_and_unique(model) %}
    {% if pgsplit.is_table_of_team(model.identifier) %}
        select null as problem where false
    {% else %}
        {{ pgsplit._present_and_unique(model) }}
    {% endif %}
{% endtest %}
