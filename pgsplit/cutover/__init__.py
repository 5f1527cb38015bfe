"""Moving the source of truth: switch, rollback, complete, abort, repair."""
