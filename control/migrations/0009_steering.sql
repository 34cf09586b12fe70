-- Where the names of single devices lead, if they can be reached by themselves or somebody has said so. Few have a row.
CREATE TABLE steering (
    registration INTEGER PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    port         INTEGER,                       -- where visitors come to the device itself; NULL: nowhere
    mode         TEXT NOT NULL                  -- auto, direct, relay
);
