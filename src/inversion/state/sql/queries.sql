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

-- name: commit_keyed
WITH known AS MATERIALIZED (
    SELECT n.function, n.key
      FROM unnest($7::text[], $8::text[], $9::text[]) AS n (function, key, id)
     CROSS JOIN LATERAL (SELECT 1 FROM inversion.request AS r
                          WHERE r.function = n.function AND r.key = n.key AND r.id = n.id) AS r (one)
), up AS (
    INSERT INTO inversion.entity AS e (function, key, version, turn, prev, state, updated_at)
    SELECT m.function, m.key, m.version, m.turn, m.prev, m.state, now()
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::uuid[], $5::uuid[], $6::text[])
           AS m (function, key, version, turn, prev, state)
     WHERE (m.prev IS NULL
            OR m.prev = (SELECT g.turn FROM inversion.entity AS g
                          WHERE g.function = m.function AND g.key = m.key))
       AND NOT EXISTS (SELECT 1 FROM known AS k WHERE k.function = m.function AND k.key = m.key)
     ORDER BY m.function COLLATE "C", m.key COLLATE "C"
        ON CONFLICT (function, key) DO UPDATE
       SET version = excluded.version, turn = excluded.turn, prev = excluded.prev, state = excluded.state,
           updated_at = excluded.updated_at
     WHERE e.turn = excluded.prev
    RETURNING e.turn
), n AS MATERIALIZED (
    SELECT *
      FROM unnest($7::text[], $8::text[], $9::text[], $10::bytea[], $11::uuid[], $12::int8[], $13::int8[],
                  $14::text[], $15::bytea[])
           AS n (function, key, id, hash, turn, version, status, content_type, body)
), recorded AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT n.function, n.key, n.id, n.hash, n.turn, n.version, n.status, n.content_type, n.body, now()
      FROM n
       -- IS TRUE makes it a look-up in a hash; a join would be a nested loop here
     WHERE (n.turn IN (SELECT up.turn FROM up)) IS TRUE
), stateless AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT n.function, n.key, n.id, n.hash, n.turn, n.version, n.status, n.content_type, n.body, now()
      FROM n
     WHERE n.key = '-'
     ORDER BY n.function COLLATE "C", n.id COLLATE "C"
        ON CONFLICT (function, key, id) DO NOTHING
    RETURNING turn
)
SELECT up.turn FROM up UNION ALL SELECT stateless.turn FROM stateless;

-- name: recorded
SELECT n.at, r.hash, r.turn, r.version, r.status, r.content_type, r.body
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS n (function, key, id, at)
  JOIN inversion.request AS r ON r.function = n.function AND r.key = n.key AND r.id = n.id;

-- name: sweep_requests
DELETE FROM inversion.request AS r
 USING (SELECT o.function, o.key, o.id
          FROM inversion.request AS o
         WHERE o.created_at < now() - $1::int8 * interval '1 millisecond'
         ORDER BY o.created_at
         LIMIT 1000
           FOR UPDATE SKIP LOCKED) AS o
 WHERE r.function = o.function AND r.key = o.key AND r.id = o.id
RETURNING 1;

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

-- name: diagnosis
SELECT current_setting('server_version'), quote_ident(current_user), current_setting('max_connections'),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::text,
       current_setting('synchronous_commit');

-- name: may_write
SELECT (has_table_privilege('inversion.entity', 'SELECT') AND has_table_privilege('inversion.entity', 'INSERT')
    AND has_table_privilege('inversion.entity', 'UPDATE') AND has_table_privilege('inversion.entity', 'DELETE'))::text;

-- name: alter_role
ALTER ROLE {role} SET {name} = '{value}';

-- name: grant_all
GRANT USAGE ON SCHEMA inversion TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA inversion TO {role};

-- name: applied
-- Books of before the column `needs` are read too.
SELECT m.number::text, m.name, m.checksum, to_jsonb(m) ->> 'needs' FROM inversion.migration AS m ORDER BY m.number;

-- name: has_bookkeeping
SELECT (to_regclass('inversion.migration') IS NOT NULL)::text;

-- name: bookkeeping
CREATE SCHEMA IF NOT EXISTS inversion;
CREATE TABLE IF NOT EXISTS inversion.migration (
    number     integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    needs      integer
);
CREATE TABLE IF NOT EXISTS inversion.migration_lock (
    one boolean NOT NULL PRIMARY KEY
);
INSERT INTO inversion.migration_lock (one) VALUES (true) ON CONFLICT DO NOTHING;

-- name: bookkeeping_needs
-- only if: SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'inversion.migration'::regclass AND attname = 'needs')
ALTER TABLE inversion.migration ADD COLUMN needs integer;
COMMENT ON COLUMN inversion.migration.needs IS 'a release that does not know this migration may serve beside it if it knows this one';

-- name: claim
SELECT one FROM inversion.migration_lock FOR UPDATE;

-- name: record
INSERT INTO inversion.migration (number, name, checksum, needs) VALUES ($1::int4, $2::text, $3::text, $4::int4);
