-- What was stored before there was an index.
INSERT INTO messaging_searchkey (message)
    SELECT m.id FROM messaging_message m
     WHERE m.kind = 'text' AND m.body IS NOT NULL AND m.id NOT IN (SELECT message FROM messaging_searchkey)
     ORDER BY m.id;
INSERT INTO messaging_search (rowid, conversation, body)
    SELECT k.id, m.conversation_id, m.body FROM messaging_searchkey k JOIN messaging_message m ON m.id = k.message
     WHERE m.kind = 'text' AND m.body IS NOT NULL AND k.id NOT IN (SELECT rowid FROM messaging_search);
