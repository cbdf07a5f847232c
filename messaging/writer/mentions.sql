-- A batch with bodies that have an @: written as any other, then, in the same transaction, the names of
-- those items ("m", blanks between) are resolved among the members. Other batches never come here.
DROP FUNCTION IF EXISTS messaging_write_mentions(json, timestamptz, text, boolean);
CREATE FUNCTION messaging_write_mentions(p_items json, p_now timestamptz, p_policy text, p_wait boolean)
RETURNS TABLE (
    code text, seq bigint, rev bigint, id uuid, conversation uuid, created_at text, mentions text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    item json;
    place integer := 0;
    names text[];
    w record;
BEGIN
    FOR w IN SELECT * FROM messaging_write(p_items, p_now, p_policy, p_wait) LOOP
        item := p_items -> place;
        place := place + 1;
        code := w.code; seq := w.seq; rev := w.rev; id := w.id; conversation := w.conversation;
        created_at := w.created_at; mentions := NULL;
        IF w.code = 'ok' AND item ->> 'm' IS NOT NULL THEN
            names := string_to_array(item ->> 'm', ' ');
            SELECT string_agg(t.name, ' ' ORDER BY t.turn, t.name) INTO mentions FROM (
                SELECT 'all' AS name, 0 AS turn
                  FROM messaging_membership x JOIN messaging_conversation v ON v.id = x.conversation_id
                 WHERE x.conversation_id = (item ->> 'c')::uuid AND x.user_id = (item ->> 's')::uuid
                   AND v.kind = 'group' AND x.role <> 'member' AND 'all' = ANY (names)
                 UNION ALL
                SELECT u.username, 1
                  FROM accounts_user u JOIN messaging_membership x
                    ON x.user_id = u.id AND x.conversation_id = (item ->> 'c')::uuid AND x.active
                 WHERE u.username = ANY (names) AND u.username <> 'all' AND u.id <> (item ->> 's')::uuid) t;
            IF mentions IS NOT NULL THEN
                names := string_to_array(mentions, ' ');
                UPDATE messaging_message x SET mentions = array_to_string(names, ' ')
                 WHERE x.id = (item ->> 'i')::uuid;
                IF names[1] = 'all' THEN
                    INSERT INTO messaging_mention (message_id, conversation_id, seq)
                    VALUES ((item ->> 'i')::uuid, (item ->> 'c')::uuid, w.seq);
                ELSE
                    INSERT INTO messaging_mention (message_id, conversation_id, seq, user_id)
                    SELECT (item ->> 'i')::uuid, (item ->> 'c')::uuid, w.seq, u.id
                      FROM accounts_user u WHERE u.username = ANY (names);
                END IF;
            END IF;
        ELSIF w.code = 'repeat' THEN
            SELECT x.mentions INTO mentions FROM messaging_message x WHERE x.id = w.id;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
