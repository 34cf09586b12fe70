-- Of the hashes of keys and codes the first 16 octets are kept: a million of them are held in memory.
UPDATE devices SET ddns_key_hash = substr(ddns_key_hash, 1, 16), challenge_key_hash = substr(challenge_key_hash, 1, 16);
UPDATE pairing_codes SET code_hash = substr(code_hash, 1, 16);
