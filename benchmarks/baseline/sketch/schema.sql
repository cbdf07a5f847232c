DROP TABLE IF EXISTS sketch_conversation, sketch_message;
CREATE TABLE sketch_conversation (k text PRIMARY KEY, head bigint NOT NULL DEFAULT 0) WITH (fillfactor = 70);
CREATE TABLE sketch_message (
    id uuid PRIMARY KEY,
    conversation text,
    seq bigint,
    sender text,
    client_id uuid,
    body text,
    created_at timestamptz,
    UNIQUE (conversation, seq),
    UNIQUE (sender, client_id)
);
INSERT INTO sketch_conversation SELECT 'aa' || n || '|' || 'bb' || n FROM generate_series(0, 999) n;
