CREATE TABLE inversion.entity (
    function   text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    version    bigint           NOT NULL,
    turn       uuid             NOT NULL,
    prev       uuid,
    state      text,
    updated_at timestamptz      NOT NULL,
    PRIMARY KEY (function, key)
) WITH (fillfactor = 85);

COMMENT ON COLUMN inversion.entity.turn IS 'the turn that wrote this row; a commit replaces exactly the turn it was computed from';

COMMENT ON COLUMN inversion.entity.prev IS 'the turn that was replaced; null: the row was new';

COMMENT ON COLUMN inversion.entity.state IS 'JSON as the function wrote it, byte for byte; null: deleted, the versions go on';

-- only if: SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'
ALTER TABLE inversion.entity ALTER COLUMN state SET COMPRESSION lz4;

-- For people and their tools. The join makes the view read-only; a state that holds the escape of NUL would
-- make every json operator fail, so it is shown as text alone.
CREATE VIEW inversion.entity_json AS
SELECT e.function,
       e.key,
       e.version,
       CASE WHEN position('\u0000' IN e.state) = 0 THEN e.state::json END AS state,
       e.state AS state_text,
       e.state IS NULL AS deleted,
       e.updated_at
  FROM inversion.entity AS e
 CROSS JOIN (VALUES (true)) AS read_only (yes);

CREATE TABLE inversion.request (
    function     text COLLATE "C" NOT NULL,
    key          text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    hash         bytea            NOT NULL,
    turn         uuid             NOT NULL,
    version      bigint           NOT NULL,
    status       bigint           NOT NULL,
    content_type text             NOT NULL,
    body         bytea            NOT NULL,
    created_at   timestamptz      NOT NULL,
    PRIMARY KEY (function, key, id)
);

COMMENT ON TABLE inversion.request IS 'answers to requests that carried a key of their own: the same key gets the same answer';

COMMENT ON COLUMN inversion.request.key IS 'of the entity; - for a call without one';

COMMENT ON COLUMN inversion.request.id IS 'c: and the Idempotency-Key';

COMMENT ON COLUMN inversion.request.status IS '200: body is the response; any other: the error that the function answered, as JSON';

CREATE INDEX request_created_at ON inversion.request (created_at);
