-- What a name looks like (directory::Skeleton): no two names that look alike are given. Only the program can compute it, and
-- fills it in when it opens the database; NULL until then, and for a name that was registered beside one like it before
-- there was this rule.
ALTER TABLE devices ADD COLUMN skeleton TEXT;
CREATE UNIQUE INDEX devices_by_skeleton ON devices (skeleton);

-- Names whose holders gave them up, for as long as they rest.
CREATE TABLE freed_names (
    name     TEXT PRIMARY KEY,
    skeleton TEXT NOT NULL,
    freed_at INTEGER NOT NULL                   -- milliseconds since 1970
);
CREATE INDEX freed_names_by_skeleton ON freed_names (skeleton);
CREATE INDEX freed_names_by_time ON freed_names (freed_at);
