CREATE OR REPLACE FUNCTION messaging_conflict() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    -- Fewer rows than revs: another transaction stored the same client_id meanwhile. Nothing may be
    -- committed with a burnt rev, so all of it is taken back and run again.
    RAISE EXCEPTION 'client_id stored meanwhile' USING ERRCODE = 'serialization_failure';
END $$;

CREATE OR REPLACE FUNCTION messaging_write(p_items json, p_now timestamptz, p_policy text, p_wait boolean)
RETURNS TABLE (code text, seq bigint, rev bigint, id uuid, conversation uuid, created_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    a_i uuid[]; a_c uuid[]; a_s uuid[]; a_k uuid[]; a_b text[]; a_r bigint[];
    locked uuid[];
BEGIN
    SELECT array_agg(i), array_agg(c), array_agg(s), array_agg(k), array_agg(b), array_agg(r)
      INTO a_i, a_c, a_s, a_k, a_b, a_r
      FROM json_to_recordset(p_items) AS t(i uuid, c uuid, s uuid, k uuid, b text, r bigint);

    -- One order for everyone: conversations by id, then memberships, then messages.
    IF p_wait THEN
        SELECT array_agg(x.id) INTO locked FROM (
            SELECT id FROM messaging_conversation WHERE id = ANY (a_c) ORDER BY id FOR NO KEY UPDATE) x;
    ELSE
        SELECT array_agg(x.id) INTO locked FROM (
            SELECT id FROM messaging_conversation WHERE id = ANY (a_c) ORDER BY id
               FOR NO KEY UPDATE SKIP LOCKED) x;
    END IF;
    PERFORM 1 FROM messaging_membership
      WHERE (conversation_id, user_id) IN (SELECT t.c, t.s FROM unnest(a_c, a_s) AS t(c, s))
        AND conversation_id = ANY (locked)
      ORDER BY conversation_id, user_id FOR NO KEY UPDATE;

    -- A statement of its own, so that its snapshot is younger than the locks.
    RETURN QUERY
    WITH item AS (
        SELECT * FROM unnest(a_i, a_c, a_s, a_k, a_b, a_r) WITH ORDINALITY AS t(i, c, s, k, b, r, n)
    ), judged AS MATERIALIZED (
        SELECT item.*, v.head_rev, v.last_seq, o.id AS o_id, o.conversation_id AS o_c, o.seq AS o_seq,
               o.rev AS o_rev, o.created_at AS o_at,
               CASE WHEN o.id IS NOT NULL THEN 'repeat'
                    WHEN v.id IS NULL THEN 'not_found'
                    WHEN NOT coalesce(item.c = ANY (locked), false) THEN 'locked'
                    WHEN m.id IS NULL OR NOT m.active THEN 'not_found'
                    WHEN NOT u.is_active OR u.suspended_until > p_now THEN 'suspended'
                    WHEN v.kind = 'direct' AND (p.id IS NULL OR NOT p.active) THEN 'not_found'
                    WHEN v.kind = 'direct' AND EXISTS (
                        SELECT FROM accounts_block k WHERE k.blocker_id = p.user_id AND k.blocked_id = item.s)
                        THEN 'blocked'
                    WHEN v.kind = 'direct' AND NOT p.wrote AND p_policy <> 'everyone' AND NOT (
                        EXISTS (SELECT FROM accounts_contact k WHERE k.owner_id = item.s AND k.target_id = p.user_id)
                        AND (p_policy = 'contacts' OR EXISTS (
                            SELECT FROM accounts_contact k WHERE k.owner_id = p.user_id AND k.target_id = item.s)))
                        THEN 'not_contact'
                    WHEN item.r IS NOT NULL AND NOT (item.r > m.joined_seq AND item.r <= v.last_seq)
                        THEN 'not_found'
                    ELSE 'ok' END AS verdict
          FROM item
          LEFT JOIN messaging_message o ON o.sender_id = item.s AND o.client_id = item.k
          LEFT JOIN messaging_conversation v ON v.id = item.c
          LEFT JOIN messaging_membership m ON m.conversation_id = item.c AND m.user_id = item.s
          LEFT JOIN accounts_user u ON u.id = item.s
          LEFT JOIN LATERAL (
              SELECT * FROM messaging_membership x
               WHERE v.kind = 'direct' AND m.id IS NOT NULL
                 AND x.conversation_id = item.c AND x.user_id <> item.s) p ON true
    ), numbered AS MATERIALIZED (
        SELECT j.*, row_number() OVER (PARTITION BY j.c ORDER BY j.n) AS place FROM judged j WHERE verdict = 'ok'
    ), stored AS (
        INSERT INTO messaging_message
               (id, conversation_id, seq, rev, sender_id, client_id, kind, body, reply_to, created_at)
        SELECT i, c, last_seq + place, head_rev + place, s, k, 'text', b, r, p_now FROM numbered ORDER BY s, k
            ON CONFLICT (sender_id, client_id) DO NOTHING
        RETURNING 1
    ), taken AS (
        SELECT c, max(head_rev) AS head, count(*) AS count FROM numbered GROUP BY c
    ), counters AS (
        UPDATE messaging_conversation v
           SET head_rev = v.head_rev + t.count, last_seq = v.last_seq + t.count, active_at = p_now
          FROM taken t WHERE v.id = t.c
    ), logged AS (
        INSERT INTO messaging_change (conversations, heads, opened)
        SELECT array_agg(c), array_agg(head + count), array_agg(c) FILTER (WHERE head = 0) FROM taken
        HAVING count(*) > 0
    ), marks AS (
        UPDATE messaging_membership m SET read_seq = g.top, delivered_seq = g.top, wrote = true
          FROM (SELECT c, s, max(last_seq + place) AS top FROM numbered GROUP BY c, s) g
         WHERE m.conversation_id = g.c AND m.user_id = g.s
    )
    SELECT j.verdict,
           coalesce(j.o_seq, q.last_seq + q.place),
           coalesce(j.o_rev, q.head_rev + q.place),
           j.o_id, j.o_c, j.o_at
      FROM judged j LEFT JOIN numbered q ON q.n = j.n
     WHERE (SELECT count(*) FROM stored) = (SELECT count(*) FROM numbered) OR messaging_conflict() = 0
     ORDER BY j.n;
END $$;
