"""`python -m bench`: what a real server does under load, next to pgbench on the same PostgreSQL.

    machine       what this is measured on; CPU time of a tree of processes
    server        one `inversion dev` on a generated folder, started and stopped
    client        a small HTTP client for what is not load
    cluster       the server's own PostgreSQL, seen from outside: settings, statistics
    load          the load generator: wrk, or our own (own_load) where there is none
    pgbench       the yardstick: BEGIN, SELECT, UPDATE, COMMIT
    spawn_limit   the yardstick of exec mode: posix_spawn and wait, nothing else
    verify        did the load do what it says: sums, forks, fsyncs
    rows          which rows there are and how each is measured
    report        pure: medians, ratios, bars, refusals, JSON
    tables        the report for people

Not part of the wheel. docs/bench.md says how to read the output.
"""
