"""Answers past their retention are forgotten, in batches, and never those that somebody holds."""

import attrs
import psycopg

from inversion.state.sweeper import KEPT, sweep

INSERT = """
    INSERT INTO inversion.request
           (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT 'f', 'k', 'c:' || n, '', gen_random_uuid(), 1, 200, 'application/json', '1',
           now() - %s * interval '1 h'
      FROM generate_series(%s::int, %s::int) AS n
"""


def left(connection):
    return {row[0] for row in connection.execute("SELECT id FROM inversion.request").fetchall()}


async def test_only_what_is_older_than_the_retention_is_deleted(database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(INSERT, (25, 1, 2_500))
        connection.execute(INSERT, (23, 2_501, 2_502))
        assert await sweep(database_url, KEPT) == 2_500
        assert left(connection) == {"c:2501", "c:2502"}
        assert await sweep(database_url, KEPT) == 0


async def test_rows_that_another_node_sweeps_are_left_to_it(database_url):
    with psycopg.connect(database_url) as connection, psycopg.connect(database_url, autocommit=True) as other:
        other.execute(INSERT, (25, 1, 3))
        connection.execute("SELECT 1 FROM inversion.request WHERE id = 'c:2' FOR UPDATE")
        assert await sweep(database_url, KEPT) == 2
        assert left(other) == {"c:2"}


async def test_dead_letters_stay_until_a_retention_is_set(database_url):
    died = """
        INSERT INTO inversion.dead_letter (function, key, id, sender, handler, body, hops, attempt,
                                           failures, error, born_at, died_at)
        SELECT 'f', 'k', 'id' || n, 'a/x', 'call', '1', 0, 1, 1, '{}', now(), now() - n * interval '1 h'
          FROM generate_series(0, 1500) AS n
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(died)
        assert await sweep(database_url, KEPT) == 0
        assert await sweep(database_url, attrs.evolve(KEPT, dead_letters_s=3_600 * 2.5)) == 1_498
        assert connection.execute("SELECT id FROM inversion.dead_letter ORDER BY id").fetchall() == [
            ("id0",),
            ("id1",),
            ("id2",),
        ]
