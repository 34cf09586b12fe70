-- The key that may set a device's ACME challenges and nothing else.
ALTER TABLE devices ADD COLUMN challenge_key_hash BLOB; -- SHA-256; NULL until a key was made
