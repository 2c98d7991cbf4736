-- remove: remove records of which the events are on disk.
-- Guarantee: atomic; a record that was removed before changes nothing; only Redis time is used.
-- KEYS[1]  the account's outbox, a list of records, each of them unique
-- ARGV[1…] the records
-- Returns {1 removed, now_us}.
for _, record in ipairs(ARGV) do redis.call('LREM', KEYS[1], 1, record) end
return { 1, now_us() }
