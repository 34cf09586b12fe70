-- What is looked for by registration, or thrown away by time, is found without a look at everything else.
CREATE INDEX pairing_codes_by_registration ON pairing_codes (registration);
CREATE INDEX pairing_codes_by_expiry ON pairing_codes (expires_at);
CREATE INDEX device_keys_by_registration ON device_keys (registration);
