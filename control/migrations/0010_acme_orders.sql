-- Certificates that were ordered of authorities which take so many orders and no more, for as long as they count. Those of a device that is
-- gone count too.
CREATE TABLE acme_orders (
    directory    TEXT NOT NULL,                 -- the authority's
    registration INTEGER,                       -- NULL: the operator's own
    ordered_at   INTEGER NOT NULL               -- seconds since 1970
);
CREATE INDEX acme_orders_by_time ON acme_orders (ordered_at);
