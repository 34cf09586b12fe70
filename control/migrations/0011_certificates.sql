-- Which certificates logs have shown for names of the zone: of each key the one that is good for longest. They are kept by name, not by
-- device: a certificate that somebody got before the name was given is good after.
CREATE TABLE certificates_seen (
    number      INTEGER PRIMARY KEY AUTOINCREMENT, -- devices ask for what comes after one
    name        TEXT NOT NULL,                  -- a device's; '*': all of them; '': the operator's
    key         BLOB NOT NULL,                  -- SHA-256 of the public key
    names       TEXT NOT NULL,                  -- JSON: those in it that are in question
    serial      TEXT NOT NULL,                  -- hexadecimal
    issuer      TEXT NOT NULL,
    not_before  INTEGER NOT NULL,               -- seconds since 1970
    not_after   INTEGER NOT NULL,               -- the same
    log         TEXT NOT NULL,                  -- where it was seen
    entry       INTEGER NOT NULL,               -- and as which entry
    seen_at     INTEGER NOT NULL,               -- milliseconds since 1970
    reported_at INTEGER,                        -- when its device said that it is not its own, the same
    UNIQUE (name, key)
);

-- How far each log has been followed and is what it was.
CREATE TABLE certificate_logs (
    url      TEXT PRIMARY KEY,
    size     INTEGER NOT NULL,                  -- entries
    frontier BLOB NOT NULL,                     -- the hashes that stand for them
    head_at  INTEGER NOT NULL                   -- when it said so, in milliseconds since 1970
);
