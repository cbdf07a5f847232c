-- What changed, by transaction: a process asks "what was committed since my last question", and
-- neither clocks nor slow transactions can hide anything from it (the method of PgQ). The rows are
-- few and short-lived: one per batch of the writer, one per other change; old ones are deleted.
CREATE TABLE IF NOT EXISTS messaging_change (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    conversations uuid[],
    heads bigint[],
    opened uuid[],
    users uuid[],
    marks jsonb
);
CREATE INDEX IF NOT EXISTS messaging_change_xid ON messaging_change (xid);

CREATE OR REPLACE FUNCTION messaging_log_conversation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO messaging_change (conversations, heads, opened)
    VALUES (ARRAY[NEW.id], ARRAY[NEW.head_rev], CASE WHEN OLD.head_rev = 0 THEN ARRAY[NEW.id] END);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION messaging_log_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO messaging_change (users) VALUES (ARRAY[NEW.id]);
    RETURN NULL;
END $$;

-- The writer logs a whole batch itself, and says so by this setting of its session.
CREATE OR REPLACE TRIGGER messaging_log_conversation AFTER UPDATE ON messaging_conversation
    FOR EACH ROW WHEN (OLD.head_rev <> NEW.head_rev AND current_setting('chatbe.writer', true) IS NULL)
    EXECUTE FUNCTION messaging_log_conversation();

CREATE OR REPLACE TRIGGER messaging_log_user AFTER UPDATE OF control_rev ON accounts_user
    FOR EACH ROW EXECUTE FUNCTION messaging_log_user();
