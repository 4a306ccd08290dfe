-- What people look at and decide on: messages and timers that wait, dead letters. Each list has the same columns.

-- name: list_waiting
-- A page in the order (function, due, id), from a place onwards. The bounds lead through the indexes of what is due.
SELECT w.kind, w.function, w.key, w.id, w.sender, w.name, w.handler, w.reply_to, w.answers, w.hops, w.attempt,
       w.failures, w.error, to_char(w.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       CASE WHEN w.due_at > now() THEN w.owner::text END,
       to_char(w.born_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), NULL::text,
       octet_length(w.body)::int8, NULL::text
  FROM ((SELECT 'message' AS kind, m.function, m.key, m.id, m.sender, NULL::text AS name, m.handler, m.reply_to,
                m.answers, m.hops, m.attempt, m.failures, m.error, m.due_at, m.owner, m.born_at, m.body
           FROM inversion.message AS m
          WHERE (m.function || '', m.due_at, m.id) > ($1::text, $2::text::timestamptz, $3::text)
            AND m.function || '' <= $4::text AND ($5::text IS NULL OR m.key = $5::text)
          ORDER BY m.function || '', m.due_at, m.id
          LIMIT $6::int8)
         UNION ALL
        (SELECT 'timer', t.target_function, t.target_key, t.id, t.function || '/' || t.key, t.name, t.handler,
                t.reply_to, NULL, t.hops, t.attempt, t.failures, t.error, t.due_at, t.owner, t.born_at, t.body
           FROM inversion.timer AS t
          WHERE (t.target_function, t.due_at, t.id) > ($1::text, $2::text::timestamptz, $3::text)
            AND t.target_function <= $4::text AND ($5::text IS NULL OR t.target_key = $5::text)
          ORDER BY t.target_function, t.due_at, t.id
          LIMIT $6::int8)) AS w
 ORDER BY w.function COLLATE "C", w.due_at, w.id COLLATE "C"
 LIMIT $6::int8;

-- name: list_dead
-- A page in the order (function, key, id), from a place onwards.
SELECT 'dead', d.function, d.key, d.id, d.sender, NULL::text, d.handler, d.reply_to, d.answers, d.hops, d.attempt,
       d.failures, d.error, NULL::text, NULL::text,
       to_char(d.born_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       to_char(d.died_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       octet_length(d.body)::int8, NULL::text
  FROM inversion.dead_letter AS d
 WHERE (d.function, d.key, d.id) > ($1::text, $2::text, $3::text) AND d.function <= $4::text
   AND ($5::text IS NULL OR d.key = $5::text)
 ORDER BY d.function, d.key, d.id
 LIMIT $6::int8;

-- name: show_letter
-- One, wherever it is, with its body.
SELECT 'dead', d.function, d.key, d.id, d.sender, NULL::text, d.handler, d.reply_to, d.answers, d.hops, d.attempt,
       d.failures, d.error, NULL::text, NULL::text,
       to_char(d.born_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       to_char(d.died_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), octet_length(d.body)::int8, d.body
  FROM inversion.dead_letter AS d
 WHERE d.function = $1::text AND d.key = $2::text AND d.id = $3::text
 UNION ALL
SELECT 'message', m.function, m.key, m.id, m.sender, NULL, m.handler, m.reply_to, m.answers, m.hops, m.attempt,
       m.failures, m.error, to_char(m.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       CASE WHEN m.due_at > now() THEN m.owner::text END,
       to_char(m.born_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), NULL, octet_length(m.body)::int8,
       m.body
  FROM inversion.message AS m
 WHERE m.function = $1::text AND m.key = $2::text AND m.id = $3::text
 UNION ALL
SELECT 'timer', t.target_function, t.target_key, t.id, t.function || '/' || t.key, t.name, t.handler, t.reply_to,
       NULL, t.hops, t.attempt, t.failures, t.error,
       to_char(t.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       CASE WHEN t.due_at > now() THEN t.owner::text END,
       to_char(t.born_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), NULL, octet_length(t.body)::int8,
       t.body
  FROM inversion.timer AS t
 WHERE t.target_function = $1::text AND t.target_key = $2::text AND t.id = $3::text;

-- name: retry_letters
-- A dead letter is a message again, once: who deletes it inserts it. It goes before all that its sender has for its
-- target (version 0), in a place that was nobody's: no node that once had it can take it for the one it had. One from
-- outside has the place in which outputs and withdrawals look for it, and its output is to come again.
-- Its age and its failures begin anew.
WITH chosen AS MATERIALIZED (
    SELECT d.function, d.key, d.id
      FROM inversion.dead_letter AS d
     WHERE d.function = $1::text AND ($2::text IS NULL OR d.key = $2::text) AND ($3::text IS NULL OR d.id = $3::text)
       AND d.died_at <= $4::text::timestamptz
     ORDER BY d.key, d.id
     LIMIT $5::int8
       FOR UPDATE
), deleted AS (
    DELETE FROM inversion.dead_letter AS d
     USING chosen AS c
     WHERE d.function = c.function AND d.key = c.key AND d.id = c.id
    RETURNING d.*
), gone AS (
    -- a send with a delay was a timer of its function's, without a key
    SELECT d.*, d.sender LIKE '-/%' OR substr(d.sender, strpos(d.sender, '/') + 1) = '-' AS outside
      FROM deleted AS d
), unsaid AS (
    DELETE FROM inversion.request AS r
     USING gone AS g
     WHERE g.outside AND r.function = g.function AND r.key = g.key AND r.id = 'm:' || g.id
)
INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, reply_to, answers, hops,
                               attempt, failures, due_at, born_at)
SELECT g.function, g.key, CASE WHEN g.outside THEN '-/' || g.id ELSE g.sender END, 0,
       CASE WHEN g.outside THEN 0
            ELSE (extract(epoch FROM now()) * 1000000)::int8 + row_number() OVER (ORDER BY g.died_at, g.id) END,
       g.id, g.handler, coalesce($6::text, g.body), g.reply_to, g.answers, g.hops, g.attempt, 0, now(), now()
  FROM gone AS g
RETURNING 1;

-- name: drop_letters
DELETE FROM inversion.dead_letter AS d
 USING (SELECT o.function, o.key, o.id
          FROM inversion.dead_letter AS o
         WHERE o.function = $1::text AND ($2::text IS NULL OR o.key = $2::text)
           AND ($3::text IS NULL OR o.id = $3::text) AND o.died_at <= $4::text::timestamptz
         ORDER BY o.key, o.id
         LIMIT $5::int8
           FOR UPDATE) AS o
 WHERE d.function = o.function AND d.key = o.key AND d.id = o.id
RETURNING 1;

-- name: sweep_dead_letters
-- No index leads here: where a retention is set there are few, and without one nobody asks.
DELETE FROM inversion.dead_letter AS d
 USING (SELECT o.function, o.key, o.id
          FROM inversion.dead_letter AS o
         WHERE o.died_at < now() - $1::int8 * interval '1 millisecond'
         LIMIT 1000
           FOR UPDATE SKIP LOCKED) AS o
 WHERE d.function = o.function AND d.key = o.key AND d.id = o.id
RETURNING 1;

-- name: clock
SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
