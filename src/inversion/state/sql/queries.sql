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

-- name: commit_keyed_each
-- commit_keyed where every turn is an entity's and has one record, as most have: a third less to do.
WITH n AS MATERIALIZED (
    SELECT *
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bytea[],
                  $9::int8[], $10::int8[], $11::text[], $12::bytea[])
           AS n (function, key, version, turn, prev, state, id, hash, answer_version, status, content_type, body)
), known AS MATERIALIZED (
    SELECT n.function, n.key
      FROM n
     CROSS JOIN LATERAL (SELECT 1 FROM inversion.request AS r
                          WHERE r.function = n.function AND r.key = n.key AND r.id = n.id) AS r (one)
), up AS (
    INSERT INTO inversion.entity AS e (function, key, version, turn, prev, state, updated_at)
    SELECT m.function, m.key, m.version, m.turn, m.prev, m.state, now()
      FROM n AS m
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
), recorded AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT n.function, n.key, n.id, n.hash, n.turn, n.answer_version, n.status, n.content_type, n.body, now()
      FROM n
     WHERE (n.turn IN (SELECT up.turn FROM up)) IS TRUE
)
SELECT up.turn FROM up;

-- name: commit_keyed_new
-- commit_keyed_each where every answer is a 200 of one content type and tells its turn's version. No look for
-- records: when a key has one the primary key of request refuses the statement, and nothing of it is applied.
WITH n AS MATERIALIZED (
    SELECT *
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bytea[],
                  $9::bytea[])
           AS n (function, key, version, turn, prev, state, id, hash, body)
), up AS (
    INSERT INTO inversion.entity AS e (function, key, version, turn, prev, state, updated_at)
    SELECT m.function, m.key, m.version, m.turn, m.prev, m.state, now()
      FROM n AS m
     WHERE m.prev IS NULL
        OR m.prev = (SELECT g.turn FROM inversion.entity AS g WHERE g.function = m.function AND g.key = m.key)
     ORDER BY m.function COLLATE "C", m.key COLLATE "C"
        ON CONFLICT (function, key) DO UPDATE
       SET version = excluded.version, turn = excluded.turn, prev = excluded.prev, state = excluded.state,
           updated_at = excluded.updated_at
     WHERE e.turn = excluded.prev
    RETURNING e.turn
), recorded AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT n.function, n.key, n.id, n.hash, n.turn, n.version, 200, $10::text, n.body, now()
      FROM n
     WHERE (n.turn IN (SELECT up.turn FROM up)) IS TRUE
)
SELECT up.turn FROM up;

-- name: commit_messages
-- Whatever a turn consumes is locked before any entity: messages, then timers, each in the order of its key.
WITH m AS MATERIALIZED (
    SELECT c.turn, (x.sender_version, x.seq) = (c.last_version, c.last_seq) AS expected, x.*
      FROM unnest($19::uuid[], $20::text[], $21::text[], $22::text[], $23::int8[], $24::int8[], $25::int8[],
                  $26::int8[])
           AS c (turn, function, key, sender, first_version, first_seq, last_version, last_seq)
      JOIN inversion.message AS x
        ON x.function = c.function AND x.key = c.key AND x.sender = c.sender
       AND (x.sender_version, x.seq) >= (c.first_version, c.first_seq)
       AND (x.sender_version, x.seq) <= (c.last_version, c.last_seq)
     ORDER BY x.function, x.key, x.sender, x.sender_version, x.seq
       FOR UPDATE OF x
), t AS MATERIALIZED (
    SELECT c.turn, c.id IS NOT NULL AS consumed, c.deletes, x.*
      FROM unnest($43::uuid[], $44::text[], $45::text[], $46::text[], $47::text[], $48::int8[])
           AS c (turn, function, key, name, id, deletes)
      JOIN inversion.timer AS x ON x.function = c.function AND x.key = c.key AND x.name = c.name
       AND (c.id IS NULL OR x.id = c.id)
     ORDER BY x.function, x.key, x.name
       FOR UPDATE OF x
), complete AS MATERIALIZED (
    -- Each turn counts once for itself, so that this is always asked and its locks are always taken. The number
    -- alone is not enough: one that is gone and one too many, outside the turn, make up for each other.
    SELECT l.turn, count(*) AS needs
      FROM (SELECT e.turn, true AS expected FROM unnest($4::uuid[]) AS e (turn)
             UNION ALL SELECT s.turn, true FROM unnest($8::uuid[]) AS s (turn)
             UNION ALL SELECT m.turn, m.expected FROM m
             UNION ALL SELECT t.turn, true FROM t WHERE t.consumed) AS l
     GROUP BY l.turn
    HAVING bool_and(l.expected)
), known AS MATERIALIZED (
    SELECT n.function, n.key
      FROM unnest($10::text[], $11::text[], $12::text[]) AS n (function, key, id)
     CROSS JOIN LATERAL (SELECT 1 FROM inversion.request AS r
                          WHERE r.function = n.function AND r.key = n.key AND r.id = n.id) AS r (one)
), up AS (
    INSERT INTO inversion.entity AS e (function, key, version, turn, prev, state, updated_at)
    SELECT m.function, m.key, m.version, m.turn, m.prev, m.state, now()
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::uuid[], $5::uuid[], $6::text[], $7::int8[])
           AS m (function, key, version, turn, prev, state, needs)
     WHERE ((m.turn, m.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS TRUE
       AND (m.prev IS NULL
            OR m.prev = (SELECT g.turn FROM inversion.entity AS g
                          WHERE g.function = m.function AND g.key = m.key))
       AND NOT EXISTS (SELECT 1 FROM known AS k WHERE k.function = m.function AND k.key = m.key)
     ORDER BY m.function COLLATE "C", m.key COLLATE "C"
        ON CONFLICT (function, key) DO UPDATE
       SET version = excluded.version, turn = excluded.turn, prev = excluded.prev, state = excluded.state,
           updated_at = excluded.updated_at
     WHERE e.turn = excluded.prev
    RETURNING e.turn
), alone AS MATERIALIZED (
    SELECT s.turn
      FROM unnest($8::uuid[], $9::int8[]) AS s (turn, needs)
     WHERE ((s.turn, s.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS TRUE
), n AS MATERIALIZED (
    SELECT *
      FROM unnest($10::text[], $11::text[], $12::text[], $13::bytea[], $14::uuid[], $15::int8[], $16::int8[],
                  $17::text[], $18::bytea[])
           AS n (function, key, id, hash, turn, version, status, content_type, body)
), recorded AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT n.function, n.key, n.id, n.hash, n.turn, n.version, n.status, n.content_type, n.body, now()
      FROM n
     WHERE (n.turn IN (SELECT up.turn FROM up)) IS TRUE
), stateless AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT n.function, n.key, n.id, n.hash, n.turn, n.version, n.status, n.content_type, n.body, now()
      FROM n
     WHERE n.key = '-' AND (n.turn IN (SELECT alone.turn FROM alone)) IS TRUE
     ORDER BY n.function COLLATE "C", n.id COLLATE "C"
        ON CONFLICT (function, key, id) DO NOTHING
    RETURNING turn
), done AS MATERIALIZED (
    SELECT up.turn FROM up
     UNION ALL SELECT stateless.turn FROM stateless
     UNION ALL SELECT a.turn FROM alone AS a WHERE (a.turn IN (SELECT n.turn FROM n)) IS NOT TRUE
), spent AS MATERIALIZED (
    -- not in the DELETE: a row that was updated meanwhile has its conditions checked again there, and a
    -- condition that asks another modification cannot be
    SELECT m.* FROM m WHERE (m.turn IN (SELECT done.turn FROM done)) IS TRUE
), rung AS MATERIALIZED (
    SELECT t.* FROM t WHERE (t.turn IN (SELECT done.turn FROM done)) IS TRUE
), consumed AS (
    DELETE FROM inversion.message AS x
     USING spent AS s
     WHERE x.function = s.function AND x.key = s.key AND x.sender = s.sender
       AND x.sender_version = s.sender_version AND x.seq = s.seq
), dropped AS (
    DELETE FROM inversion.timer AS x
     USING rung AS r
     WHERE r.deletes = 1 AND x.function = r.function AND x.key = r.key AND x.name = r.name
), buried AS (
    INSERT INTO inversion.dead_letter (function, key, id, sender, handler, body, reply_to, answers, hops, attempt,
                                       failures, error, born_at, died_at)
    SELECT d.function, d.key, d.id, d.sender, d.handler, d.body, d.reply_to, d.answers, d.hops, d.attempt,
           d.failures, b.error, d.born_at, now()
      FROM unnest($27::text[], $28::text[]) AS b (id, error)
      JOIN (SELECT s.function, s.key, s.id, s.sender, s.handler, s.body, s.reply_to, s.answers, s.hops, s.attempt,
                   s.failures, s.born_at
              FROM spent AS s
             UNION ALL
            SELECT r.target_function, r.target_key, r.id, r.function || '/' || r.key, r.handler, r.body, r.reply_to,
                   NULL, r.hops, r.attempt, r.failures, r.born_at
              FROM rung AS r WHERE r.consumed) AS d ON d.id = b.id
        ON CONFLICT (function, key, id) DO NOTHING
), born AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, reply_to, answers,
                                   hops, owner, attempt, failures, due_at, born_at)
    SELECT b.function, b.key, b.sender, b.sender_version, b.seq, b.id, b.handler, b.body, b.reply_to, b.answers,
           b.hops, b.owner, CASE WHEN b.owner IS NULL THEN 0 ELSE 1 END, 0,
           now() + b.lease_ms * interval '1 millisecond', now()
      FROM unnest($29::uuid[], $30::text[], $31::text[], $32::text[], $33::int8[], $34::int8[], $35::text[],
                  $36::text[], $37::text[], $38::text[], $39::text[], $40::int8[], $41::uuid[], $42::int8[])
           AS b (turn, function, key, sender, sender_version, seq, id, handler, body, reply_to, answers, hops, owner,
                 lease_ms)
     WHERE (b.turn IN (SELECT done.turn FROM done)) IS TRUE
), wound AS (
    INSERT INTO inversion.timer AS x (function, key, name, id, target_function, target_key, handler, body, reply_to,
                                      hops, attempt, failures, due_at, born_at)
    SELECT w.function, w.key, w.name, w.id, w.target_function, w.target_key, w.handler, w.body, w.reply_to, w.hops,
           0, 0, coalesce(w.at::timestamptz, now() + w.delay_ms * interval '1 millisecond'), now()
      FROM unnest($49::uuid[], $50::text[], $51::text[], $52::text[], $53::text[], $54::text[], $55::text[],
                  $56::text[], $57::text[], $58::text[], $59::int8[], $60::int8[], $61::text[])
           AS w (turn, function, key, name, id, target_function, target_key, handler, body, reply_to, hops, delay_ms,
                 at)
     WHERE (w.turn IN (SELECT done.turn FROM done)) IS TRUE
     ORDER BY w.function COLLATE "C", w.key COLLATE "C", w.name COLLATE "C"
        ON CONFLICT (function, key, name) DO UPDATE
       SET id = excluded.id, target_function = excluded.target_function, target_key = excluded.target_key,
           handler = excluded.handler, body = excluded.body, reply_to = excluded.reply_to, hops = excluded.hops,
           owner = NULL, attempt = 0, failures = 0, error = NULL, due_at = excluded.due_at,
           born_at = excluded.born_at
)
SELECT done.turn, true FROM done
 UNION ALL
SELECT l.turn, false
  FROM (SELECT e.turn, e.needs FROM unnest($4::uuid[], $7::int8[]) AS e (turn, needs)
         UNION ALL SELECT s.turn, s.needs FROM unnest($8::uuid[], $9::int8[]) AS s (turn, needs)) AS l
 WHERE ((l.turn, l.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS NOT TRUE;

-- name: subscribing
-- Of a batch in which a turn says something of a topic: further parts of commit_messages.
, said AS MATERIALIZED (
    -- only the entity's own turns change its subscriptions, and by now this one has the entity's row
    SELECT s.topic, s.function, s.key, s.handler
      FROM unnest($62::uuid[], $63::text[], $64::text[], $65::text[], $66::text[])
           AS s (turn, topic, function, key, handler)
     WHERE (s.turn IN (SELECT done.turn FROM done)) IS TRUE
), unsubscribed AS (
    DELETE FROM inversion.subscription AS x
     USING said AS s
     WHERE s.handler IS NULL AND x.topic = s.topic AND x.function = s.function AND x.key = s.key
), subscribed AS (
    INSERT INTO inversion.subscription AS x (topic, function, key, handler)
    SELECT s.topic, s.function, s.key, s.handler
      FROM said AS s
     WHERE s.handler IS NOT NULL
     ORDER BY s.topic COLLATE "C", s.function COLLATE "C", s.key COLLATE "C"
        ON CONFLICT (topic, function, key) DO UPDATE SET handler = excluded.handler
     WHERE x.handler <> excluded.handler
)

-- name: commit_plain_messages
-- commit_messages without what most turns do not have: records, timers, dead letters.
WITH m AS MATERIALIZED (
    SELECT c.turn, (x.sender_version, x.seq) = (c.last_version, c.last_seq) AS expected, x.function, x.key, x.sender,
           x.sender_version, x.seq
      FROM unnest($10::uuid[], $11::text[], $12::text[], $13::text[], $14::int8[], $15::int8[], $16::int8[],
                  $17::int8[])
           AS c (turn, function, key, sender, first_version, first_seq, last_version, last_seq)
      JOIN inversion.message AS x
        ON x.function = c.function AND x.key = c.key AND x.sender = c.sender
       AND (x.sender_version, x.seq) >= (c.first_version, c.first_seq)
       AND (x.sender_version, x.seq) <= (c.last_version, c.last_seq)
     ORDER BY x.function, x.key, x.sender, x.sender_version, x.seq
       FOR UPDATE OF x
), complete AS MATERIALIZED (
    -- of those that consume; itself counts too
    SELECT l.turn, count(*) + 1 AS needs
      FROM m AS l
     GROUP BY l.turn
    HAVING bool_and(l.expected)
), up AS (
    INSERT INTO inversion.entity AS e (function, key, version, turn, prev, state, updated_at)
    SELECT m.function, m.key, m.version, m.turn, m.prev, m.state, now()
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::uuid[], $5::uuid[], $6::text[], $7::int8[])
           AS m (function, key, version, turn, prev, state, needs)
     -- in this order: the locks are taken before any row goes on
     WHERE (((m.turn, m.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS TRUE OR m.needs = 1)
       AND (m.prev IS NULL
            OR m.prev = (SELECT g.turn FROM inversion.entity AS g
                          WHERE g.function = m.function AND g.key = m.key))
     ORDER BY m.function COLLATE "C", m.key COLLATE "C"
        ON CONFLICT (function, key) DO UPDATE
       SET version = excluded.version, turn = excluded.turn, prev = excluded.prev, state = excluded.state,
           updated_at = excluded.updated_at
     WHERE e.turn = excluded.prev
    RETURNING e.turn
), done AS MATERIALIZED (
    SELECT up.turn FROM up
     UNION ALL
    SELECT s.turn
      FROM unnest($8::uuid[], $9::int8[]) AS s (turn, needs)
     WHERE ((s.turn, s.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS TRUE OR s.needs = 1
), spent AS MATERIALIZED (
    SELECT m.* FROM m WHERE (m.turn IN (SELECT done.turn FROM done)) IS TRUE
), consumed AS (
    DELETE FROM inversion.message AS x
     USING spent AS s
     WHERE x.function = s.function AND x.key = s.key AND x.sender = s.sender
       AND x.sender_version = s.sender_version AND x.seq = s.seq
), born AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, reply_to, answers,
                                   hops, owner, attempt, failures, due_at, born_at)
    SELECT b.function, b.key, b.sender, b.sender_version, b.seq, b.id, b.handler, b.body, b.reply_to, b.answers,
           b.hops, b.owner, CASE WHEN b.owner IS NULL THEN 0 ELSE 1 END, 0,
           now() + b.lease_ms * interval '1 millisecond', now()
      FROM unnest($18::uuid[], $19::text[], $20::text[], $21::text[], $22::int8[], $23::int8[], $24::text[],
                  $25::text[], $26::text[], $27::text[], $28::text[], $29::int8[], $30::uuid[], $31::int8[])
           AS b (turn, function, key, sender, sender_version, seq, id, handler, body, reply_to, answers, hops, owner,
                 lease_ms)
     WHERE (b.turn IN (SELECT done.turn FROM done)) IS TRUE
)
SELECT done.turn, true FROM done
 UNION ALL
SELECT l.turn, false
  FROM (SELECT e.turn, e.needs FROM unnest($4::uuid[], $7::int8[]) AS e (turn, needs)
         UNION ALL SELECT s.turn, s.needs FROM unnest($8::uuid[], $9::int8[]) AS s (turn, needs)) AS l
 -- nearly always all are done, and nothing of this is looked at
 WHERE (SELECT count(*) FROM done) < cardinality($4::uuid[]) + cardinality($8::uuid[])
   AND l.needs > 1
   AND ((l.turn, l.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS NOT TRUE;

-- name: claim_messages
-- Due rows of each function, at most as many as this node has room for. One behind another of its pair that
-- is neither taken too nor this node's already is not taken, nor what is behind it: its turn could only fail.
-- It goes behind the first of its pair, in the order of both, so that what is due first can be taken before it.
-- $5: so many are looked at, whatever the room, where many stand in the way of their firsts.
WITH due AS MATERIALIZED (
    SELECT d.*, f.room, row_number() OVER (PARTITION BY d.function ORDER BY d.due_at) AS place
      FROM unnest($1::text[], $2::int8[]) AS f (function, room)
     CROSS JOIN LATERAL (
            SELECT m.function, m.key, m.sender, m.sender_version, m.seq, m.due_at
              FROM inversion.message AS m
             WHERE m.function || '' = f.function AND m.due_at <= now()
             ORDER BY m.due_at
             LIMIT greatest(f.room, $5::int8)
               FOR UPDATE SKIP LOCKED) AS d
), judged AS MATERIALIZED (
    SELECT d.*, bool_or(b.sender_version IS NOT NULL)
                    OVER (PARTITION BY d.function, d.key, d.sender ORDER BY d.sender_version, d.seq) AS blocked
      FROM due AS d
      LEFT JOIN LATERAL (
            SELECT e.sender_version, e.seq, e.due_at > now() AND e.owner = $3::uuid AS ours
              FROM inversion.message AS e
             WHERE d.key <> '-' AND e.function = d.function AND e.key = d.key AND e.sender = d.sender
               AND (e.sender_version, e.seq) < (d.sender_version, d.seq)
             ORDER BY e.sender_version DESC, e.seq DESC
             LIMIT 1) AS b
        ON b.ours IS NOT TRUE
       AND (d.function, d.key, d.sender, b.sender_version, b.seq)
           NOT IN (SELECT o.function, o.key, o.sender, o.sender_version, o.seq FROM due AS o
                    WHERE o.place <= o.room)
       AND (d.place <= d.room
            OR (d.function, d.key, d.sender, b.sender_version, b.seq)
               NOT IN (SELECT o.function, o.key, o.sender, o.sender_version, o.seq FROM due AS o))
), followed AS (
    UPDATE inversion.message AS x
       SET owner = NULL,
           due_at = CASE WHEN h.due_at <= now() OR h.owner IS NULL THEN h.due_at
                         ELSE least(h.due_at, now() + interval '100 milliseconds') END
                  + greatest(1, least(1000, j.sender_version - h.sender_version)) * interval '1 microsecond'
      FROM judged AS j
     CROSS JOIN LATERAL (
            SELECT e.sender_version, e.due_at, e.owner
              FROM inversion.message AS e
             WHERE e.function = j.function AND e.key = j.key AND e.sender = j.sender
               AND NOT (e.due_at > now() AND e.owner IS NOT DISTINCT FROM $3::uuid)
             ORDER BY e.sender_version, e.seq
             LIMIT 1) AS h
     WHERE j.blocked
       AND x.function = j.function AND x.key = j.key AND x.sender = j.sender
       AND x.sender_version = j.sender_version AND x.seq = j.seq
    RETURNING x.due_at
), claimed AS (
    UPDATE inversion.message AS x
       SET owner = $3::uuid, attempt = x.attempt + 1, due_at = now() + $4::int8 * interval '1 millisecond'
      FROM judged AS j
     WHERE NOT j.blocked AND j.place <= j.room
       AND x.function = j.function AND x.key = j.key AND x.sender = j.sender
       AND x.sender_version = j.sender_version AND x.seq = j.seq
    RETURNING x.function, x.key, x.sender, x.sender_version, x.seq, x.id, x.handler, x.body, x.reply_to, x.answers,
              x.hops, x.attempt, x.failures,
              (extract(epoch FROM now() - x.born_at) * 1000)::int8 AS age_ms
)
SELECT c.*, f.still_due
  FROM (SELECT count(*) AS still_due FROM followed WHERE due_at <= now()) AS f
  LEFT JOIN claimed AS c ON true
 ORDER BY c.function, c.key, c.sender, c.sender_version, c.seq;

-- name: claim_timers
WITH due AS MATERIALIZED (
    SELECT d.*
      FROM unnest($1::text[], $2::int8[]) AS f (function, room)
     CROSS JOIN LATERAL (
            SELECT t.function, t.key, t.name, t.due_at
              FROM inversion.timer AS t
             WHERE t.target_function = f.function AND t.due_at <= now()
             ORDER BY t.due_at
             LIMIT f.room
               FOR UPDATE SKIP LOCKED) AS d
)
UPDATE inversion.timer AS x
   SET owner = $3::uuid, attempt = x.attempt + 1, due_at = now() + $4::int8 * interval '1 millisecond'
  FROM due AS d
 WHERE x.function = d.function AND x.key = d.key AND x.name = d.name
RETURNING x.function, x.key, x.name, x.id, x.target_function, x.target_key, x.handler, x.body, x.reply_to, x.hops,
          x.attempt, x.failures, (extract(epoch FROM now() - greatest(d.due_at, x.born_at)) * 1000)::int8;

-- name: renew_messages
-- Rows that are just being committed are left out: they need no lease.
WITH mine AS MATERIALIZED (
    SELECT x.function, x.key, x.sender, x.sender_version, x.seq
      FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[])
           AS c (function, key, sender, sender_version, seq, attempt)
      JOIN inversion.message AS x
        ON x.function = c.function AND x.key = c.key AND x.sender = c.sender
       AND x.sender_version = c.sender_version AND x.seq = c.seq AND x.attempt = c.attempt
     WHERE x.owner = $7::uuid
       FOR UPDATE OF x SKIP LOCKED
)
UPDATE inversion.message AS x
   SET due_at = now() + $8::int8 * interval '1 millisecond'
  FROM mine AS c
 WHERE x.function = c.function AND x.key = c.key AND x.sender = c.sender
   AND x.sender_version = c.sender_version AND x.seq = c.seq;

-- name: renew_timers
WITH mine AS MATERIALIZED (
    SELECT x.function, x.key, x.name
      FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::text[])
           AS c (function, key, name, attempt, id)
      JOIN inversion.timer AS x
        ON x.function = c.function AND x.key = c.key AND x.name = c.name AND x.id = c.id AND x.attempt = c.attempt
     WHERE x.owner = $6::uuid
       FOR UPDATE OF x SKIP LOCKED
)
UPDATE inversion.timer AS x
   SET due_at = now() + $7::int8 * interval '1 millisecond'
  FROM mine AS c
 WHERE x.function = c.function AND x.key = c.key AND x.name = c.name;

-- name: put_off_messages
-- Given back, after so many milliseconds for anybody; a failure is counted and remembered.
WITH mine AS MATERIALIZED (
    SELECT x.function, x.key, x.sender, x.sender_version, x.seq, c.pause_ms, c.failed, c.error
      FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[],
                  $9::text[])
           AS c (function, key, sender, sender_version, seq, attempt, pause_ms, failed, error)
      JOIN inversion.message AS x
        ON x.function = c.function AND x.key = c.key AND x.sender = c.sender
       AND x.sender_version = c.sender_version AND x.seq = c.seq AND x.attempt = c.attempt
     WHERE x.owner = $10::uuid
     ORDER BY x.function, x.key, x.sender, x.sender_version, x.seq
       FOR UPDATE OF x
)
UPDATE inversion.message AS x
   SET owner = NULL, due_at = now() + c.pause_ms * interval '1 millisecond', failures = x.failures + c.failed,
       error = coalesce(c.error, x.error)
  FROM mine AS c
 WHERE x.function = c.function AND x.key = c.key AND x.sender = c.sender
   AND x.sender_version = c.sender_version AND x.seq = c.seq;

-- name: put_off_timers
WITH mine AS MATERIALIZED (
    SELECT x.function, x.key, x.name, c.pause_ms, c.failed, c.error
      FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[], $7::text[], $8::text[])
           AS c (function, key, name, attempt, pause_ms, failed, error, id)
      JOIN inversion.timer AS x
        ON x.function = c.function AND x.key = c.key AND x.name = c.name AND x.id = c.id AND x.attempt = c.attempt
     WHERE x.owner = $9::uuid
     ORDER BY x.function, x.key, x.name
       FOR UPDATE OF x
)
UPDATE inversion.timer AS x
   SET owner = NULL, due_at = now() + c.pause_ms * interval '1 millisecond', failures = x.failures + c.failed,
       error = coalesce(c.error, x.error)
  FROM mine AS c
 WHERE x.function = c.function AND x.key = c.key AND x.name = c.name;

-- name: bury_message
-- A dead letter, and for a sender who waits for an answer the error as a message, in a pair of its own.
WITH mine AS MATERIALIZED (
    SELECT x.*
      FROM inversion.message AS x
     WHERE x.function = $1::text AND x.key = $2::text AND x.sender = $3::text AND x.sender_version = $4::int8
       AND x.seq = $5::int8 AND x.attempt = $6::int8 AND x.owner = $7::uuid
       FOR UPDATE
), buried AS (
    INSERT INTO inversion.dead_letter (function, key, id, sender, handler, body, reply_to, answers, hops, attempt,
                                       failures, error, born_at, died_at)
    SELECT x.function, x.key, x.id, x.sender, x.handler, x.body, x.reply_to, x.answers, x.hops, x.attempt,
           x.failures + $8::int8, $9::text, x.born_at, now()
      FROM mine AS x
), told AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, answers, hops,
                                   attempt, failures, due_at, born_at)
    SELECT split_part(x.sender, '/', 1), substr(x.sender, strpos(x.sender, '/') + 1), '~/' || $11::text, 0, 0,
           $11::text, x.reply_to, $10::text, x.id, x.hops, 0, 0, now(), now()
      FROM mine AS x
     WHERE x.reply_to IS NOT NULL
), output AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT x.function, x.key, 'm:' || x.id, '', '00000000-0000-0000-0000-000000000000', 0, $12::int8,
           'application/json', convert_to($9::text, 'UTF8'), now()
      FROM mine AS x
     WHERE x.sender LIKE '-/%'
        ON CONFLICT (function, key, id) DO NOTHING
), gone AS (
    DELETE FROM inversion.message AS x
     USING mine AS c
     WHERE x.function = c.function AND x.key = c.key AND x.sender = c.sender
       AND x.sender_version = c.sender_version AND x.seq = c.seq
)
SELECT 1 FROM mine;

-- name: bury_timer
WITH mine AS MATERIALIZED (
    SELECT x.*
      FROM inversion.timer AS x
     WHERE x.function = $1::text AND x.key = $2::text AND x.name = $3::text AND x.id = $4::text
       AND x.attempt = $5::int8 AND x.owner = $6::uuid
       FOR UPDATE
), buried AS (
    INSERT INTO inversion.dead_letter (function, key, id, sender, handler, body, reply_to, hops, attempt, failures,
                                       error, born_at, died_at)
    SELECT x.target_function, x.target_key, x.id, x.function || '/' || x.key, x.handler, x.body, x.reply_to, x.hops,
           x.attempt, x.failures + $7::int8, $8::text, x.born_at, now()
      FROM mine AS x
), told AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, answers, hops,
                                   attempt, failures, due_at, born_at)
    SELECT x.function, x.key, '~/' || $10::text, 0, 0, $10::text, x.reply_to, $9::text, x.id, x.hops, 0, 0, now(),
           now()
      FROM mine AS x
     WHERE x.reply_to IS NOT NULL
), output AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT x.target_function, x.target_key, 'm:' || x.id, '', '00000000-0000-0000-0000-000000000000', 0, $11::int8,
           'application/json', convert_to($8::text, 'UTF8'), now()
      FROM mine AS x
     WHERE x.key = '-'
        ON CONFLICT (function, key, id) DO NOTHING
), gone AS (
    DELETE FROM inversion.timer AS x
     USING mine AS c
     WHERE x.function = c.function AND x.key = c.key AND x.name = c.name
)
SELECT 1 FROM mine;

-- name: fan_out
-- The next subscribers of each publication get their messages, at most so many, and its progress moves; one
-- that has no more subscribers is gone. An earlier one of its pair that still waits comes first.
WITH p AS MATERIALIZED (
    SELECT c.at, c.most, x.function, x.key, x.sender, x.sender_version, x.seq, x.body, x.hops,
           split_part(coalesce(x.progress, '/'), '/', 1) COLLATE "C" AS last_function,
           substr(coalesce(x.progress, '/'), strpos(coalesce(x.progress, '/'), '/') + 1) COLLATE "C" AS last_key
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[]) WITH ORDINALITY
           AS c (key, sender, sender_version, seq, attempt, most, at)
      JOIN inversion.message AS x
        ON x.function = '~topic' AND x.key = c.key AND x.sender = c.sender
       AND x.sender_version = c.sender_version AND x.seq = c.seq AND x.attempt = c.attempt
     WHERE x.owner = $7::uuid
       AND NOT EXISTS (SELECT FROM inversion.message AS e
                        WHERE e.function = '~topic' AND e.key = c.key AND e.sender = c.sender
                          AND (e.sender_version, e.seq) < (c.sender_version, c.seq))
     ORDER BY x.function, x.key, x.sender, x.sender_version, x.seq
       FOR UPDATE OF x
), batch AS MATERIALIZED (
    SELECT p.at, p.sender, p.sender_version, p.seq, p.body, p.hops, s.function, s.key, s.handler
      FROM p
     CROSS JOIN LATERAL (
            SELECT s.function, s.key, s.handler
              FROM inversion.subscription AS s
             WHERE s.topic = p.key AND (s.function, s.key) > (p.last_function, p.last_key)
             ORDER BY s.function, s.key
             LIMIT p.most) AS s
), born AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, hops, attempt,
                                   failures, due_at, born_at)
    SELECT b.function, b.key, b.sender, b.sender_version, b.seq, gen_random_uuid()::text, b.handler, b.body, b.hops,
           0, 0, now(), now()
      FROM batch AS b
), step AS MATERIALIZED (
    SELECT p.at, p.function, p.key, p.sender, p.sender_version, p.seq, b.made, b.made < p.most AS done, b.progress
      FROM p
     CROSS JOIN LATERAL (
            SELECT count(*) AS made,
                   (array_agg(b.function || '/' || b.key ORDER BY b.function DESC, b.key DESC))[1] AS progress
              FROM batch AS b
             WHERE b.at = p.at) AS b
), moved AS (
    UPDATE inversion.message AS x
       SET progress = s.progress, due_at = now() + $8::int8 * interval '1 millisecond'
      FROM step AS s
     WHERE NOT s.done
       AND x.function = s.function AND x.key = s.key AND x.sender = s.sender
       AND x.sender_version = s.sender_version AND x.seq = s.seq
), gone AS (
    DELETE FROM inversion.message AS x
     USING step AS s
     WHERE s.done
       AND x.function = s.function AND x.key = s.key AND x.sender = s.sender
       AND x.sender_version = s.sender_version AND x.seq = s.seq
)
SELECT s.at, s.made, s.done FROM step AS s;

-- name: backlog
-- What waits, looked at no further than somebody wants to know. In the order of an index each: without one the
-- planner trusts that 10,000 are soon found, and reads the whole table for each function that has none.
SELECT f.at,
       (SELECT count(*) FROM (SELECT 1 FROM inversion.message AS m
                               WHERE m.function || '' = f.function AND m.due_at <= now()
                               ORDER BY m.due_at LIMIT 10000) AS d)
     + (SELECT count(*) FROM (SELECT 1 FROM inversion.timer AS t
                               WHERE t.target_function = f.function AND t.due_at <= now()
                               ORDER BY t.due_at LIMIT 10000) AS d),
       (SELECT count(*) FROM (SELECT 1 FROM inversion.message AS m WHERE m.function || '' = f.function
                               ORDER BY m.due_at LIMIT 10000) AS w),
       (SELECT count(*) FROM (SELECT 1 FROM inversion.timer AS t
                               WHERE t.target_function = f.function
                               ORDER BY t.due_at LIMIT 10000) AS w),
       greatest(0, (extract(epoch FROM now() - least(
               (SELECT m.due_at FROM inversion.message AS m WHERE m.function || '' = f.function
                 ORDER BY m.due_at LIMIT 1),
               (SELECT t.due_at FROM inversion.timer AS t WHERE t.target_function = f.function
                 ORDER BY t.due_at LIMIT 1))) * 1000)::int8),
       (SELECT count(*) FROM (SELECT 1 FROM inversion.dead_letter AS l WHERE l.function = f.function
                               ORDER BY l.key LIMIT 10000) AS w)
  FROM unnest($1::text[]) WITH ORDINALITY AS f (function, at);

-- name: adopt_schedules
INSERT INTO inversion.cron AS c (function, name, rule, last_at, seen_at)
SELECT s.function, s.name, s.rule, date_trunc('second', now()), now()
  FROM unnest($1::text[], $2::text[], $3::text[]) AS s (function, name, rule)
 ORDER BY s.function COLLATE "C", s.name COLLATE "C"
    ON CONFLICT (function, name) DO UPDATE
   SET last_at = CASE WHEN c.rule = excluded.rule THEN c.last_at ELSE excluded.last_at END,
       rule = excluded.rule, seen_at = excluded.seen_at;

-- name: look_at_schedules
SELECT s.at, floor(extract(epoch FROM c.last_at))::int8, coalesce(floor(extract(epoch FROM c.fired_at)), 0)::int8,
       floor(extract(epoch FROM now()) * 1000)::int8
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS s (function, name, at)
  JOIN inversion.cron AS c ON c.function = s.function AND c.name = s.name;

-- name: fire_schedule
-- Who comes second finds the row locked or moved, and does nothing. An instant whose message still waits
-- (somebody has set last_at back) is not doubled.
WITH won AS MATERIALIZED (
    SELECT c.function, c.name
      FROM inversion.cron AS c
     WHERE c.function = $1::text AND c.name = $2::text AND floor(extract(epoch FROM c.last_at))::int8 = $3::int8
       AND to_timestamp($4::int8) <= now()
       FOR UPDATE SKIP LOCKED
), born AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, hops, attempt,
                                   failures, due_at, born_at)
    SELECT w.function, $5::text, $6::text, b.instant, 0, b.id, $7::text, $8::text, 0, 0, 0, now(), now()
      FROM won AS w
     CROSS JOIN unnest($9::int8[], $10::text[]) AS b (instant, id)
        ON CONFLICT (function, key, sender, sender_version, seq) DO NOTHING
    RETURNING 1
)
UPDATE inversion.cron AS c
   SET last_at = to_timestamp($4::int8),
       fired_at = CASE WHEN EXISTS (SELECT 1 FROM born) THEN now() ELSE c.fired_at END
  FROM won AS w
 WHERE c.function = w.function AND c.name = w.name
RETURNING 1;

-- name: keep_schedules
UPDATE inversion.cron AS c
   SET seen_at = now()
  FROM unnest($1::text[], $2::text[]) AS s (function, name)
 WHERE c.function = s.function AND c.name = s.name AND c.seen_at < now() - interval '1 hour';

-- name: forget_schedules
DELETE FROM inversion.cron AS c WHERE c.seen_at < now() - interval '30 days';

-- name: send
-- From outside: a record, without which the same again would be sent again, and a message or a timer.
WITH s AS MATERIALIZED (
    SELECT *
      FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::uuid[], $8::int8[],
                  $9::int8[], $10::int8[], $11::text[], $12::text[]) WITH ORDINALITY
           AS s (function, key, id, hash, handler, body, owner, lease_ms, waits, delay_ms, due, record, at)
), kept AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT s.function, s.key, s.record, s.hash, '00000000-0000-0000-0000-000000000000', 0, 202,
           'text/plain', convert_to(s.id, 'UTF8'), now()
      FROM s
     ORDER BY s.function COLLATE "C", s.key COLLATE "C", s.record COLLATE "C"
        ON CONFLICT (function, key, id) DO NOTHING
    RETURNING function, key, id
), new AS MATERIALIZED (
    SELECT s.*
      FROM s
     WHERE ((s.function, s.key, s.record) IN (SELECT k.function, k.key, k.id FROM kept AS k)) IS TRUE
), born AS (
    INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, hops, owner,
                                   attempt, failures, due_at, born_at)
    SELECT n.function, n.key, '-/' || n.id, 0, 0, n.id, n.handler, n.body, 0, n.owner,
           CASE WHEN n.owner IS NULL THEN 0 ELSE 1 END, 0, now() + n.lease_ms * interval '1 millisecond', now()
      FROM new AS n
     WHERE n.waits = 0
), wound AS (
    INSERT INTO inversion.timer (function, key, name, id, target_function, target_key, handler, body, hops, attempt,
                                 failures, due_at, born_at)
    SELECT n.function, '-', '~' || n.id, n.id, n.function, n.key, n.handler, n.body, 0, 0, 0,
           coalesce(n.due::timestamptz, now() + n.delay_ms * interval '1 millisecond'), now()
      FROM new AS n
     WHERE n.waits = 1
)
SELECT n.at FROM new AS n;

-- name: outputs
-- 0: here it is; 1: it is to come; 2: what was sent was withdrawn; 3: nobody knows of it.
SELECT n.at,
       CASE WHEN r.id IS NOT NULL THEN 0
            WHEN EXISTS (SELECT 1 FROM inversion.message AS m
                          WHERE m.function = n.function AND m.key = n.key AND m.sender = '-/' || n.id
                            AND m.sender_version = 0 AND m.seq = 0) THEN 1
            WHEN EXISTS (SELECT 1 FROM inversion.timer AS t
                          WHERE t.function = n.function AND t.key = '-' AND t.name = '~' || n.id
                            AND t.target_function = n.function AND t.target_key = n.key) THEN 1
            WHEN s.status = 410 THEN 2
            ELSE 3 END::int8,
       r.turn, r.version, r.status, r.content_type, r.body
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS n (function, key, id, at)
  LEFT JOIN inversion.request AS r ON r.function = n.function AND r.key = n.key AND r.id = 'm:' || n.id
  LEFT JOIN inversion.request AS s ON s.function = n.function AND s.key = n.key AND s.id = 's:' || n.id;

-- name: withdraw
-- What was sent from outside and is not consumed; a record says so to whoever asks.
WITH m AS MATERIALIZED (
    SELECT x.function, x.key, x.sender
      FROM inversion.message AS x
     WHERE x.function = $1::text AND x.key = $2::text AND x.sender = '-/' || $3::text AND x.sender_version = 0
       AND x.seq = 0
       FOR UPDATE
), t AS MATERIALIZED (
    SELECT x.function, x.key, x.name
      FROM inversion.timer AS x
     WHERE x.function = $1::text AND x.key = '-' AND x.name = '~' || $3::text AND x.target_function = $1::text
       AND x.target_key = $2::text
       FOR UPDATE
), gone AS (
    DELETE FROM inversion.message AS x
     USING m
     WHERE x.function = m.function AND x.key = m.key AND x.sender = m.sender AND x.sender_version = 0 AND x.seq = 0
), stopped AS (
    DELETE FROM inversion.timer AS x
     USING t
     WHERE x.function = t.function AND x.key = t.key AND x.name = t.name
), said AS (
    INSERT INTO inversion.request (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT $1::text, $2::text, 's:' || $3::text, '', '00000000-0000-0000-0000-000000000000', 0, 410, 'text/plain',
           '', now()
     WHERE EXISTS (SELECT 1 FROM m) OR EXISTS (SELECT 1 FROM t)
        ON CONFLICT (function, key, id) DO UPDATE SET status = 410
)
SELECT 1 FROM m UNION ALL SELECT 1 FROM t;

-- name: recorded
SELECT n.at, r.hash, r.turn, r.version, r.status, r.content_type, r.body
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS n (function, key, id, at)
  JOIN inversion.request AS r ON r.function = n.function AND r.key = n.key AND r.id = n.id;

-- name: sweep_requests
-- Outputs, or all else; those kept longer are passed over, so the last sweep says from when on to look.
DELETE FROM inversion.request AS r
 USING (SELECT o.function, o.key, o.id
          FROM inversion.request AS o
         WHERE o.created_at < now() - $1::int8 * interval '1 millisecond'
           AND o.created_at > now() - ($1::int8 + $2::int8) * interval '1 millisecond'
           AND (o.id LIKE 'm:%') = ($3::int8 = 1)
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
