"""Which job starts where, and with which plan: pure functions of values, no I/O."""
