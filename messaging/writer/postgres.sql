CREATE OR REPLACE FUNCTION messaging_conflict() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    -- Fewer rows than revs: another transaction stored the same client_id meanwhile. Nothing may be
    -- committed with a burnt rev, so all of it is taken back and run again.
    RAISE EXCEPTION 'client_id stored meanwhile' USING ERRCODE = 'serialization_failure';
END $$;

DROP FUNCTION IF EXISTS messaging_write(json, timestamptz, text, boolean);
CREATE FUNCTION messaging_write(p_items json, p_now timestamptz, p_policy text, p_wait boolean)
RETURNS TABLE (code text, seq bigint, rev bigint, id uuid, conversation uuid, created_at text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    a_i uuid[]; a_c uuid[]; a_s uuid[]; a_k uuid[]; a_b text[]; a_r bigint[]; a_a text[];
    locked uuid[];
BEGIN
    SELECT array_agg(i), array_agg(c), array_agg(s), array_agg(k), array_agg(b), array_agg(r), array_agg(a)
      INTO a_i, a_c, a_s, a_k, a_b, a_r, a_a
      FROM json_to_recordset(p_items) AS t(i uuid, c uuid, s uuid, k uuid, b text, r bigint, a text);

    -- One order for everyone: conversations by id, then memberships, then messages.
    IF p_wait THEN
        SELECT array_agg(x.id) INTO locked FROM (
            SELECT id FROM messaging_conversation WHERE id = ANY (a_c) ORDER BY id FOR NO KEY UPDATE) x;
    ELSE
        SELECT array_agg(x.id) INTO locked FROM (
            SELECT id FROM messaging_conversation WHERE id = ANY (a_c) ORDER BY id
               FOR NO KEY UPDATE SKIP LOCKED) x;
    END IF;
    -- A statement of its own, so that its snapshot is younger than the locks. Scalar sub-selects in
    -- place of EXISTS, which the planner would hash: that reads all contacts there are. The marks
    -- come before the messages, in order, so they need no lock beforehand: a count makes the insert
    -- wait until the last of them is written.
    RETURN QUERY
    WITH item AS (
        SELECT * FROM unnest(a_i, a_c, a_s, a_k, a_b, a_r, a_a) WITH ORDINALITY AS t(i, c, s, k, b, r, a, n)
    ), judged AS MATERIALIZED (
        SELECT j.*,
               count(*) FILTER (WHERE verdict = 'ok') OVER (PARTITION BY c ORDER BY n ROWS UNBOUNDED PRECEDING)
                   AS place
          FROM (
            SELECT item.*, v.head_rev, v.last_seq, o.id AS o_id, o.conversation_id AS o_c, o.seq AS o_seq,
                   o.rev AS o_rev, o.created_at AS o_at,
                   CASE WHEN o.kind = 'system' THEN 'conflict'
                        WHEN o.id IS NOT NULL THEN 'repeat'
                        WHEN v.id IS NULL THEN 'not_found'
                        WHEN NOT coalesce(item.c = ANY (locked), false) THEN 'locked'
                        WHEN m.id IS NULL OR NOT m.active THEN 'not_found'
                        WHEN NOT u.is_active OR u.suspended_until > p_now THEN 'suspended'
                        WHEN v.kind = 'direct' AND (p.id IS NULL OR NOT p.active) THEN 'not_found'
                        WHEN v.kind = 'direct' AND (
                            SELECT true FROM accounts_block k
                             WHERE k.blocker_id = p.user_id AND k.blocked_id = item.s) THEN 'blocked'
                        WHEN v.kind = 'direct' AND NOT p.wrote AND p_policy <> 'everyone' AND (
                            (SELECT true FROM accounts_contact k
                              WHERE k.owner_id = item.s AND k.target_id = p.user_id) IS NULL
                            OR p_policy <> 'contacts' AND (SELECT true FROM accounts_contact k
                              WHERE k.owner_id = p.user_id AND k.target_id = item.s) IS NULL)
                            THEN 'not_contact'
                        WHEN item.r IS NOT NULL AND NOT (
                            item.r > greatest(m.joined_seq, v.purged_seq) AND item.r <= v.last_seq)
                            THEN 'not_found'
                        ELSE 'ok' END AS verdict
              FROM item
              LEFT JOIN messaging_message o ON o.sender_id = item.s AND o.client_id = item.k
              LEFT JOIN messaging_conversation v ON v.id = item.c
              LEFT JOIN messaging_membership m ON m.conversation_id = item.c AND m.user_id = item.s
              LEFT JOIN accounts_user u ON u.id = item.s
              -- Of a group no member is read: as a filter of the join the kind would be looked at for each.
              LEFT JOIN messaging_membership p
                ON p.conversation_id = CASE WHEN v.kind = 'direct' AND m.id IS NOT NULL THEN item.c END
               AND p.user_id <> item.s
          ) j
    ), marks AS (
        UPDATE messaging_membership m SET read_seq = g.top, delivered_seq = g.top, wrote = true
          FROM (SELECT c, s, max(last_seq + place) AS top FROM judged WHERE verdict = 'ok'
                 GROUP BY c, s ORDER BY c, s) g
         WHERE m.conversation_id = g.c AND m.user_id = g.s
        RETURNING 1
    ), stored AS (
        INSERT INTO messaging_message
               (id, conversation_id, seq, rev, sender_id, client_id, kind, body, reply_to, created_at, attachments)
        SELECT i, c, last_seq + place, head_rev + place, s, k, 'text', b, r, p_now, a
          FROM judged WHERE verdict = 'ok' AND (SELECT count(*) FROM marks) >= 0 ORDER BY s, k
            ON CONFLICT (sender_id, client_id) DO NOTHING
        RETURNING 1
    ), taken AS (
        SELECT c, max(head_rev) AS head, count(*) AS count FROM judged WHERE verdict = 'ok' GROUP BY c
    ), counters AS (
        UPDATE messaging_conversation v
           SET head_rev = v.head_rev + t.count, last_seq = v.last_seq + t.count, active_at = p_now
          FROM taken t WHERE v.id = t.c
    ), logged AS (
        INSERT INTO messaging_change (conversations, heads, opened)
        SELECT array_agg(c), array_agg(head + count), array_agg(c) FILTER (WHERE head = 0) FROM taken
        HAVING count(*) > 0
    )
    SELECT verdict,
           CASE WHEN verdict = 'ok' THEN last_seq + place ELSE o_seq END,
           CASE WHEN verdict = 'ok' THEN head_rev + place ELSE o_rev END,
           o_id, o_c, to_char(o_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
      FROM judged
     WHERE (SELECT count(*) FROM stored) = (SELECT count(*) FROM judged WHERE verdict = 'ok')
        OR messaging_conflict() = 0
     ORDER BY n;
END $$;

-- One message alone, the usual case at low rates, at half the cost: plain statements in place of one
-- large plan. It stores what nothing speaks against; anything else is for the batch to judge
-- (`code` is then null). A client_id that is stored meanwhile violates the unique index: run again.
DROP FUNCTION IF EXISTS messaging_write_one(uuid, uuid, uuid, uuid, text, bigint, timestamptz, text);
CREATE FUNCTION messaging_write_one(
    p_id uuid, p_conversation uuid, p_sender uuid, p_client_id uuid, p_body text, p_reply_to bigint,
    p_now timestamptz, p_policy text, OUT code text, OUT seq bigint, OUT rev bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    f record;
BEGIN
    SELECT x.head_rev, x.last_seq, x.purged_seq, x.kind = 'direct' AS direct INTO v
      FROM messaging_conversation x WHERE x.id = p_conversation FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- After the lock, with a snapshot of its own.
    SELECT p.user_id AS peer, p.wrote AS answered INTO f
      FROM accounts_user u
      JOIN messaging_membership m ON m.conversation_id = p_conversation AND m.user_id = u.id AND m.active
      -- Of a group no member is read: OFFSET keeps the kind from becoming a filter of the join.
      LEFT JOIN (
        SELECT x.id, x.user_id, x.wrote FROM messaging_membership x
         WHERE v.direct AND x.conversation_id = p_conversation AND x.active OFFSET 0) p ON p.user_id <> u.id
     WHERE u.id = p_sender AND u.is_active AND (u.suspended_until IS NULL OR u.suspended_until <= p_now)
       AND (NOT v.direct OR p.id IS NOT NULL)
       AND (p_reply_to IS NULL OR (p_reply_to > greatest(m.joined_seq, v.purged_seq) AND p_reply_to <= v.last_seq))
       AND NOT EXISTS (SELECT FROM messaging_message o WHERE o.sender_id = p_sender AND o.client_id = p_client_id)
       AND NOT EXISTS (SELECT FROM accounts_block b WHERE b.blocker_id = p.user_id AND b.blocked_id = p_sender);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v.direct AND NOT f.answered AND p_policy <> 'everyone' THEN
        IF NOT EXISTS (SELECT FROM accounts_contact c WHERE c.owner_id = p_sender AND c.target_id = f.peer)
           OR (p_policy <> 'contacts' AND NOT EXISTS (
               SELECT FROM accounts_contact c WHERE c.owner_id = f.peer AND c.target_id = p_sender)) THEN
            RETURN;
        END IF;
    END IF;
    code := 'ok';
    seq := v.last_seq + 1;
    rev := v.head_rev + 1;
    UPDATE messaging_conversation x SET head_rev = rev, last_seq = seq, active_at = p_now
     WHERE x.id = p_conversation;
    UPDATE messaging_membership x SET read_seq = seq, delivered_seq = seq, wrote = true
     WHERE x.conversation_id = p_conversation AND x.user_id = p_sender;
    INSERT INTO messaging_message
           (id, conversation_id, seq, rev, sender_id, client_id, kind, body, reply_to, created_at)
    VALUES (p_id, p_conversation, seq, rev, p_sender, p_client_id, 'text', p_body, p_reply_to, p_now);
    INSERT INTO messaging_change (conversations, heads, opened)
    VALUES (ARRAY[p_conversation], ARRAY[rev], CASE WHEN v.head_rev = 0 THEN ARRAY[p_conversation] END);
END $$;
