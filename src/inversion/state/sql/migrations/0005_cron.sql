-- needs: 2

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
