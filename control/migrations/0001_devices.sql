-- Which zone the database belongs to; one row.
CREATE TABLE zone (
    name TEXT NOT NULL
);

-- The names under the zone. A registration number is never given twice, so what a former holder of a name left behind
-- (addresses, grants) cannot come back under it.
CREATE TABLE devices (
    registration  INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    device_id     BLOB UNIQUE,                  -- 16 octets; NULL until paired
    ddns_key_hash BLOB,                         -- SHA-256; NULL until a key was made
    addresses     TEXT NOT NULL DEFAULT '[]',   -- JSON: what the agent reports of itself
    registered_at INTEGER NOT NULL              -- milliseconds since 1970
);

-- The Ed25519 keys that stand for a device now: one, or two during a rotation.
CREATE TABLE device_keys (
    public_key   BLOB PRIMARY KEY,              -- 32 octets
    registration INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE
);

-- Codes with which an agent becomes a device. Kept as hashes, and for a while after use, so that an agent whose answer
-- was lost is answered again.
CREATE TABLE pairing_codes (
    code_hash    BLOB PRIMARY KEY,              -- SHA-256
    registration INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    expires_at   INTEGER NOT NULL,              -- milliseconds since 1970
    used_by      BLOB                           -- the public key that used it
);
