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

CREATE TABLE inversion.message (
    function       text COLLATE "C" NOT NULL,
    key            text COLLATE "C" NOT NULL,
    sender         text COLLATE "C" NOT NULL,
    sender_version bigint           NOT NULL,
    seq            bigint           NOT NULL,
    id             text COLLATE "C" NOT NULL,
    handler        text             NOT NULL,
    body           text             NOT NULL,
    reply_to       text,
    answers        text,
    hops           bigint           NOT NULL,
    owner          uuid,
    attempt        bigint           NOT NULL,
    failures       bigint           NOT NULL,
    error          text,
    due_at         timestamptz      NOT NULL,
    born_at        timestamptz      NOT NULL,
    progress       text,
    PRIMARY KEY (function, key, sender, sender_version, seq)
) WITH (fillfactor = 85);

COMMENT ON TABLE inversion.message IS 'what waits for an entity, or for a function without state (key -); consumed in the commit of its turn';

COMMENT ON COLUMN inversion.message.sender IS 'function/key of the entity that sent it, -/id of a send from outside, ~/id of an answer from no entity';

COMMENT ON COLUMN inversion.message.sender_version IS 'with seq the order of what one sender sends to one target, and one of a kind with the rest of the key';

COMMENT ON COLUMN inversion.message.answers IS 'the id of the message to which this one is the answer';

COMMENT ON COLUMN inversion.message.owner IS 'the node that has it until due_at; null: nobody';

COMMENT ON COLUMN inversion.message.progress IS 'of what is published to a topic (function ~topic): function/key of the last subscriber that has its message';

COMMENT ON COLUMN inversion.message.due_at IS 'when a node may take it: at birth, after a pause, or when the lease of its owner is over';

-- An expression, or it would be taken for the way to one row by a plan that was made for an empty table.
CREATE INDEX message_due ON inversion.message ((function || ''), due_at);

CREATE TABLE inversion.timer (
    function        text COLLATE "C" NOT NULL,
    key             text COLLATE "C" NOT NULL,
    name            text COLLATE "C" NOT NULL,
    id              text COLLATE "C" NOT NULL,
    target_function text COLLATE "C" NOT NULL,
    target_key      text COLLATE "C" NOT NULL,
    handler         text             NOT NULL,
    body            text             NOT NULL,
    reply_to        text,
    hops            bigint           NOT NULL,
    owner           uuid,
    attempt         bigint           NOT NULL,
    failures        bigint           NOT NULL,
    error           text,
    due_at          timestamptz      NOT NULL,
    born_at         timestamptz      NOT NULL,
    PRIMARY KEY (function, key, name)
) WITH (fillfactor = 85);

COMMENT ON TABLE inversion.timer IS 'messages that wait for their time or have a name, by their sender';

COMMENT ON COLUMN inversion.timer.name IS 'as the sender chose it; ~ and the id: it chose none';

CREATE INDEX timer_due ON inversion.timer (target_function, due_at);

CREATE TABLE inversion.dead_letter (
    function text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    id       text COLLATE "C" NOT NULL,
    sender   text COLLATE "C" NOT NULL,
    handler  text             NOT NULL,
    body     text             NOT NULL,
    reply_to text,
    answers  text,
    hops     bigint           NOT NULL,
    attempt  bigint           NOT NULL,
    failures bigint           NOT NULL,
    error    text             NOT NULL,
    born_at  timestamptz      NOT NULL,
    died_at  timestamptz      NOT NULL,
    PRIMARY KEY (function, key, id)
);

COMMENT ON TABLE inversion.dead_letter IS 'messages that gave up, with what was said of the last try';

CREATE TABLE inversion.subscription (
    topic    text COLLATE "C" NOT NULL,
    function text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    handler  text             NOT NULL,
    PRIMARY KEY (topic, function, key)
);

COMMENT ON TABLE inversion.subscription IS 'the handler of an entity that gets what is published to a topic; changed in the commit of the entity';

CREATE TABLE inversion.cron (
    function text COLLATE "C" NOT NULL,
    name     text COLLATE "C" NOT NULL,
    rule     text             NOT NULL,
    last_at  timestamptz      NOT NULL,
    fired_at timestamptz,
    seen_at  timestamptz      NOT NULL,
    PRIMARY KEY (function, name)
);

COMMENT ON TABLE inversion.cron IS 'how far each schedule is; whoever moves last_at has brought the messages into being';

COMMENT ON COLUMN inversion.cron.rule IS 'fields and zone: where it changes, the schedule begins anew';

COMMENT ON COLUMN inversion.cron.last_at IS 'the newest instant that is dealt with: fired, left out, or when the schedule began';

COMMENT ON COLUMN inversion.cron.fired_at IS 'when a message was last born of it';

COMMENT ON COLUMN inversion.cron.seen_at IS 'when a node last said that it has it, to the hour';
