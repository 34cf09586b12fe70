-- Ports of the relays that lead to services of single devices. Few have any.
CREATE TABLE ports (
    number       INTEGER NOT NULL,
    protocol     TEXT NOT NULL,                 -- tcp, udp
    registration INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    PRIMARY KEY (number, protocol)
);
CREATE INDEX ports_of_device ON ports (registration);
