-- settle: correct an open reservation to its actual cost, and close it.
-- Guarantee: atomic; once per reservation, however often it runs; debt is recorded, not clipped, except that forced claims put a rate in debt by at most one burst; nothing falls below zero; a quota in a later period stays unchanged; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  its leases, a sorted set
-- ARGV[1]  ttl_ms: TTL of the state after this write, milliseconds
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim, as for reserve; cost is the actual cost, slots are released
-- and after them:
--   billed   1: the request has an event that reports overage; else 0
--   hold     id of the reservation
-- Returns {1 settled | 0 not known, now_us, used, end_us, notified, carried, left, burned, overage, started_us, …}; as reserve,
--   used after the correction, notified before it, always eight per claim. Status 0 has the overage of an answer that may have been lost.
--   {-1, now_us}: now is outside the bounds.
local key, leases, now = KEYS[1], KEYS[2], now_us()
local claims, _, grants = survey(key, now)
if not claims then return { -1, now } end
local at = FIRST + #claims * GROUP
local billed, id = ARGV[at] == '1', ARGV[at + 1]
local name, reported = 'o/' .. id, false
local text = redis.call('HGET', key, name)
if not text then return reply(0, now, claims, true) end
local charged = {}
local rule, charges = rare().read_open(text)
if rule == 'settled' then
  local k = 0
  for units in string.gmatch(text, '%d+') do
    k = k + 1
    if claims[k] then claims[k].overage = tonumber(units) end
  end
  return reply(0, now, claims, true)
end
for _, c in ipairs(charges) do
  charged[c.field] = charged[c.field] or c
  charged[c.field].starts = charged[c.field].starts or {}
  charged[c.field].starts[c.since] = true
end
for _, claim in ipairs(claims) do
  local c = charged[claim.field]
  if not c then claim.starts = {} end
  if c then
    local difference = claim.cost - c.cost
    if claim.kind == 'slots' then difference = -c.cost end
    if claim.kind == 'quota' then claim.starts = c.starts end
    if claim.kind == 'quota' and not c.starts[claim.since] then
      claim.change = { difference, c.reported < 0 and claim.cost or difference }
    end
    if claim.settled then
      rare().correct(claim, c, billed)
      reported = reported or claim.overage > 0
    elseif claim.kind ~= 'quota' then
      claim.used = min(max(0, claim.used + difference), claim.most or MOST)
    elseif c.starts[claim.since] then
      rare().spend(claim, difference)
    end
  end
end
store(key, claims, grants, now)
if reported then
  local units = {}
  for k, claim in ipairs(claims) do units[k] = int(claim.overage or 0) end
  redis.call('HSET', key, name, 'settled\n' .. table.concat(units, '\t') .. '\n')
  redis.call('ZADD', leases, int(now + REPORTED_US), id)
  rare().keep(leases, tonumber(ARGV[1]))
else
  redis.call('HDEL', key, name)
  redis.call('ZREM', leases, id)
end
return reply(1, now, claims, true)
