-- The relays that have a process of their own. The key is theirs alone: what is kept here lets nobody be one.
CREATE TABLE relays (
    name       TEXT PRIMARY KEY,
    public_key BLOB NOT NULL UNIQUE,            -- Ed25519, 32 octets
    addresses  TEXT NOT NULL,                   -- JSON: where its front is reached from outside
    port       INTEGER NOT NULL,
    added_at   INTEGER NOT NULL                 -- milliseconds since 1970
);
