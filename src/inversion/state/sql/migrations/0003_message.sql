-- needs: 2

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
    PRIMARY KEY (function, key, sender, sender_version, seq)
) WITH (fillfactor = 85);

COMMENT ON TABLE inversion.message IS 'what waits for an entity, or for a function without state (key -); consumed in the commit of its turn';

COMMENT ON COLUMN inversion.message.sender IS 'function/key of the entity that sent it, -/id of a send from outside, ~/id of an answer from no entity';

COMMENT ON COLUMN inversion.message.sender_version IS 'with seq the order of what one sender sends to one target, and one of a kind with the rest of the key';

COMMENT ON COLUMN inversion.message.answers IS 'the id of the message to which this one is the answer';

COMMENT ON COLUMN inversion.message.owner IS 'the node that has it until due_at; null: nobody';

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
