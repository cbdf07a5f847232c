-- Run after every migration: SQLite drops a table's triggers where a migration makes the table anew.
CREATE TRIGGER IF NOT EXISTS messaging_search_insert AFTER INSERT ON messaging_message
WHEN NEW.kind = 'text' AND NEW.body IS NOT NULL BEGIN
    INSERT INTO messaging_searchkey (message) VALUES (NEW.id);
    INSERT INTO messaging_search (rowid, conversation, body)
        SELECT id, NEW.conversation_id, NEW.body FROM messaging_searchkey WHERE message = NEW.id;
END;
CREATE TRIGGER IF NOT EXISTS messaging_search_update AFTER UPDATE OF body, kind ON messaging_message
WHEN OLD.body IS NOT NEW.body OR OLD.kind <> NEW.kind BEGIN
    INSERT OR IGNORE INTO messaging_searchkey (message) VALUES (NEW.id);
    DELETE FROM messaging_search WHERE rowid = (SELECT id FROM messaging_searchkey WHERE message = NEW.id);
    INSERT INTO messaging_search (rowid, conversation, body)
        SELECT id, NEW.conversation_id, NEW.body FROM messaging_searchkey
         WHERE message = NEW.id AND NEW.kind = 'text' AND NEW.body IS NOT NULL;
END;
CREATE TRIGGER IF NOT EXISTS messaging_search_delete AFTER DELETE ON messaging_message BEGIN
    DELETE FROM messaging_search WHERE rowid = (SELECT id FROM messaging_searchkey WHERE message = OLD.id);
    DELETE FROM messaging_searchkey WHERE message = OLD.id;
END;
