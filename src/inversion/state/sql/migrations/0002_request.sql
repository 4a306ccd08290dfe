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
