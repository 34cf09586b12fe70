-- What one device may have at most, where that is not what all may. Few have a row.
CREATE TABLE device_limits (
    registration     INTEGER PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    bytes_per_second INTEGER,                   -- NULL: as all
    visitors         INTEGER                    -- NULL: as all
);
