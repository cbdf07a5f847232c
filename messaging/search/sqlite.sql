-- Full text by FTS5, kept by triggers. The keys are given in the order in which messages were stored,
-- so the newest come first by them; the conversation is a word of the index, so that a search in one
-- conversation touches nothing of the others. The table keeps its own copy of the text, as messages
-- have no integer key that would survive VACUUM.
CREATE TABLE IF NOT EXISTS messaging_searchkey (
    id integer PRIMARY KEY,
    message char(32) NOT NULL UNIQUE
);
CREATE VIRTUAL TABLE IF NOT EXISTS messaging_search USING fts5 (
    conversation, body, tokenize = 'unicode61 remove_diacritics 0'
);
