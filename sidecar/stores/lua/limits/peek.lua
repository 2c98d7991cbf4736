-- peek: return what reserve would answer now.
-- Guarantee: changes nothing; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  its leases, a sorted set
-- ARGV[1]  ttl_ms: not used; the arguments are those of reserve
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim, as for reserve
-- Returns {1 would grant | 0 would refuse, now_us, used, end_us, notified, carried, left, burned, overage, started_us, …}; as
--   reserve, used without the cost, always eight per claim.
--   {-1, now_us}: now is outside the bounds.
local key, now = KEYS[1], now_us()
local free = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now))) do
  local _, charges = rare().read_open(redis.call('HGET', key, 'o/' .. id) or '')
  for _, c in ipairs(charges) do
    if c.kind == 'slots' then free[c.field] = (free[c.field] or 0) + c.cost end
  end
end
local claims, granted = survey(key, now)
if not claims then return { -1, now } end
granted = true
for k, claim in ipairs(claims) do
  if claim.kind == 'slots' then claim.used = max(0, claim.used - (free[claim.field] or 0)) end
  local fits = claim.used + claim.cost <= claim.cap + (claim.carried or 0) + (claim.left or 0)
  if claim.team then fits = claim.fits end
  if not fits and ARGV[FIRST + (k - 1) * GROUP + 2] == '0' then granted = false end
end
return reply(granted and 1 or 0, now, claims, true)
