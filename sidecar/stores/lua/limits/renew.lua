-- renew: extend the leases of reservations, as their sidecar is alive.
-- Guarantee: an ended lease stays ended; only Redis time is used.
-- KEYS[1]  the account's leases, a sorted set
-- ARGV[1]  lease_us: length of the leases from now on, microseconds
-- ARGV[2…] hold: ids of reservations
-- Returns {number of renewed leases, now_us}.
local now, renewed = now_us(), 0
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[1])), ARGV[i])
    renewed = renewed + 1
  end
end
return { renewed, now }
