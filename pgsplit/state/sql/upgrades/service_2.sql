-- From version 1 to version 2.
lock table split.turn in exclusive mode;
