-- Full text over messages. Each run of up to 256 consecutive messages of a conversation is one segment:
-- the set of their words, with a GIN index. A search finds segments by it and reads their messages.
-- Segments are made behind the writer's back by messaging_index_next, so a send pays nothing; what has
-- none yet is read directly. A segment always holds every word of its messages as they are now, since
-- the triggers below make it anew in the transaction that changes or removes one.
CREATE TABLE IF NOT EXISTS messaging_segment (
    conversation_id uuid NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    oldest_at timestamptz NOT NULL,
    newest_at timestamptz NOT NULL,
    words tsvector NOT NULL,
    PRIMARY KEY (conversation_id, first_seq)
);
CREATE INDEX IF NOT EXISTS messaging_segment_words ON messaging_segment USING gin (words);
CREATE INDEX IF NOT EXISTS messaging_segment_newest ON messaging_segment (newest_at);

-- Whoever makes or changes segments of a conversation holds this until the end of the transaction: an
-- edit either is seen by the making of its segment or finds it made.
CREATE OR REPLACE FUNCTION messaging_index_lock(p_conversation uuid) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(p_conversation::text, 7261))
$$;

-- A text as it is taken apart, for messages and for queries: words and what is between them. PostgreSQL's
-- parser knows addresses, numbers, compounds and markup, and has other words within them than beside them:
-- what makes one of them is a blank here, and so is an emoji, which it takes for a letter. Each character stays
-- at its place.
CREATE OR REPLACE FUNCTION messaging_text(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length($1) = length($1) THEN translate($1, '<-/:.@&_+~', '          ')
                ELSE regexp_replace(translate($1, '<-/:.@&_+~', '          '),
                                    '[\u200d\u20e3\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]', ' ', 'g') END
$$;

-- A message's words.
CREATE OR REPLACE FUNCTION messaging_words(text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('simple', messaging_text($1))
$$;

-- Make segments of a range of seqs that has none. A segment's text is bounded, since a tsvector is, at 1 MiB.
CREATE OR REPLACE FUNCTION messaging_index(p_conversation uuid, p_first bigint, p_last bigint)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO messaging_segment (conversation_id, first_seq, last_seq, oldest_at, newest_at, words)
    SELECT p_conversation, min(seq), max(seq), min(created_at), max(created_at),
           strip(messaging_words(coalesce(string_agg(text, ' '), '')))
      FROM (SELECT seq, created_at, CASE WHEN kind = 'text' THEN body END AS text,
                   (seq - p_first) / 256 AS run,
                   sum(coalesce(octet_length(body), 0)) OVER (ORDER BY seq) / 200000 AS size
              FROM messaging_message
             WHERE conversation_id = p_conversation AND seq BETWEEN p_first AND p_last) m
     GROUP BY run, size
$$;

-- Make the next segments of one conversation, of at most p_most messages; full ones only, unless p_all.
-- Returns how many messages they have.
CREATE OR REPLACE FUNCTION messaging_index_next(p_conversation uuid, p_all boolean, p_most bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    done bigint;
    count bigint;
BEGIN
    PERFORM messaging_index_lock(p_conversation);
    SELECT greatest(c.purged_seq, (SELECT max(s.last_seq) FROM messaging_segment s WHERE s.conversation_id = c.id)),
           c.last_seq
      INTO done, count
      FROM messaging_conversation c WHERE c.id = p_conversation;
    count := least(count - done, p_most);
    IF NOT p_all THEN
        count := count / 256 * 256;
    END IF;
    IF count IS NULL OR count <= 0 THEN
        RETURN 0;
    END IF;
    PERFORM messaging_index(p_conversation, done + 1, done + count);
    RETURN count;
END $$;

CREATE OR REPLACE FUNCTION messaging_index_again(p_conversation uuid, p_first bigint, p_last bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s record;
BEGIN
    PERFORM messaging_index_lock(p_conversation);
    FOR s IN
        DELETE FROM messaging_segment
         WHERE conversation_id = p_conversation AND first_seq <= p_last AND last_seq >= p_first
        RETURNING first_seq, last_seq
    LOOP
        PERFORM messaging_index(p_conversation, s.first_seq, s.last_seq);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION messaging_message_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM messaging_index_again(NEW.conversation_id, NEW.seq, NEW.seq);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION messaging_messages_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM messaging_index_again(g.conversation_id, g.first, g.last)
      FROM (SELECT conversation_id, min(seq) AS first, max(seq) AS last
              FROM gone GROUP BY conversation_id ORDER BY conversation_id) g;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION messaging_messages_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM messaging_segment;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER messaging_message_changed AFTER UPDATE OF body, kind ON messaging_message
    FOR EACH ROW WHEN (OLD.body IS DISTINCT FROM NEW.body OR OLD.kind <> NEW.kind)
    EXECUTE FUNCTION messaging_message_changed();
CREATE OR REPLACE TRIGGER messaging_messages_removed AFTER DELETE ON messaging_message
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION messaging_messages_removed();
CREATE OR REPLACE TRIGGER messaging_messages_truncated AFTER TRUNCATE ON messaging_message
    FOR EACH STATEMENT EXECUTE FUNCTION messaging_messages_truncated();
