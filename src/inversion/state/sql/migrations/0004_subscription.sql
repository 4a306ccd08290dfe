-- needs: 2

CREATE TABLE inversion.subscription (
    topic    text COLLATE "C" NOT NULL,
    function text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    handler  text             NOT NULL,
    PRIMARY KEY (topic, function, key)
);

COMMENT ON TABLE inversion.subscription IS 'the handler of an entity that gets what is published to a topic; changed in the commit of the entity';

ALTER TABLE inversion.message ADD COLUMN progress text;

COMMENT ON COLUMN inversion.message.progress IS 'of what is published to a topic (function ~topic): function/key of the last subscriber that has its message';
