-- settle: correct an open reservation to its actual cost, and close it.
-- Guarantee: atomic; once per reservation, however often it runs; debt is recorded, not clipped, except that forced claims put a rate in debt by at most one burst; nothing falls below zero; a quota in a later period stays unchanged; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  its leases, a sorted set
-- ARGV[1]  ttl_ms: TTL of the state after this write, milliseconds
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim, as for reserve; cost is the actual cost, slots are released
-- and after them:
--   hold     id of the reservation
-- Returns {1 settled | 0 not known, now_us, used, end_us, notified, carried, left, burned, …}; as reserve,
--   used after the correction, notified before it, always six per claim.
--   {-1, now_us}: now is outside the bounds.
local key, leases, now = KEYS[1], KEYS[2], now_us()
local claims, _, grants = survey(key, now)
if not claims then return { -1, now } end
local name = 'o/' .. ARGV[FIRST + #claims * GROUP]
local text = redis.call('HGET', key, name)
if not text then return reply(0, now, claims, true) end
local charged = {}
local _, charges = rare().read_open(text)
for _, c in ipairs(charges) do charged[c.field] = c end
for _, claim in ipairs(claims) do
  local c = charged[claim.field]
  if c then
    local difference = claim.cost - c.cost
    if claim.kind == 'slots' then difference = -c.cost end
    if claim.kind ~= 'quota' then
      claim.used = min(max(0, claim.used + difference), claim.most or MOST)
    elseif claim.since == c.since then
      if difference >= 0 then burn(claim, difference) else rare().give_back(claim, -difference) end
    end
  end
end
store(key, claims, grants, now)
redis.call('HDEL', key, name)
redis.call('ZREM', leases, string.sub(name, 3))
return reply(1, now, claims, true)
