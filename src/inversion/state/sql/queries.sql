-- name: load
SELECT m.at, e.version, e.turn, e.state
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS m (function, key, at)
  JOIN inversion.entity AS e ON e.function = m.function AND e.key = m.key;

-- name: outdated
SELECT m.at
  FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS m (function, key, turn, at)
  LEFT JOIN inversion.entity AS e ON e.function = m.function AND e.key = m.key
 WHERE e.turn IS DISTINCT FROM m.turn;

-- name: commit
INSERT INTO inversion.entity AS e (function, key, version, turn, prev, state, updated_at)
SELECT m.function, m.key, m.version, m.turn, m.prev, m.state, now()
  FROM unnest($1::text[], $2::text[], $3::int8[], $4::uuid[], $5::uuid[], $6::text[])
       AS m (function, key, version, turn, prev, state)
 WHERE m.prev IS NULL
    OR m.prev = (SELECT g.turn FROM inversion.entity AS g WHERE g.function = m.function AND g.key = m.key)
 ORDER BY m.function COLLATE "C", m.key COLLATE "C"
    ON CONFLICT (function, key) DO UPDATE
   SET version = excluded.version, turn = excluded.turn, prev = excluded.prev, state = excluded.state,
       updated_at = excluded.updated_at
 WHERE e.turn = excluded.prev
RETURNING e.turn;

-- name: commit_one
UPDATE inversion.entity
   SET version = $3::int8, turn = $4::uuid, prev = $5::uuid, state = $6::text, updated_at = now()
 WHERE function = $1::text AND key = $2::text AND turn = $5::uuid
RETURNING turn;

-- name: find
SELECT m.at, e.turn, e.prev
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS m (function, key, at)
  JOIN inversion.entity AS e ON e.function = m.function AND e.key = m.key
 ORDER BY m.function COLLATE "C", m.key COLLATE "C"
   FOR UPDATE OF e;

-- name: unlocked
SELECT m.at
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS m (function, key, at)
  JOIN inversion.entity AS e ON e.function = m.function AND e.key = m.key
   FOR UPDATE OF e SKIP LOCKED;

-- name: settings
SELECT current_setting('fsync'), current_setting('server_encoding'), current_setting('server_version_num'),
       current_setting('server_version'), pg_is_in_recovery()::text,
       current_setting('transaction_read_only'), current_setting('synchronous_commit'),
       current_setting('lock_timeout');

-- name: applied
SELECT number::text, checksum FROM inversion.migration ORDER BY number;

-- name: has_bookkeeping
SELECT (to_regclass('inversion.migration') IS NOT NULL)::text;

-- name: bookkeeping
CREATE SCHEMA IF NOT EXISTS inversion;
CREATE TABLE IF NOT EXISTS inversion.migration (
    number     integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS inversion.migration_lock (
    one boolean NOT NULL PRIMARY KEY
);
INSERT INTO inversion.migration_lock (one) VALUES (true) ON CONFLICT DO NOTHING;

-- name: claim
SELECT one FROM inversion.migration_lock FOR UPDATE;

-- name: record
INSERT INTO inversion.migration (number, name, checksum) VALUES ($1::int4, $2::text, $3::text);
