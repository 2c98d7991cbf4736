-- charge: count what a sidecar let pass while Redis could not be asked.
-- Guarantee: atomic; once per entry of a journal, however often it is called; debt is recorded, not clipped; a quota whose period is over is left alone; no threshold is told; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  up to which entry of this journal the account was charged, a number
-- ARGV[1]  ttl_ms: how long the state and that number are kept after this write, milliseconds
-- ARGV[2]  claims: how many there are
-- ARGV[3…] groups of 5, one per claim, as for reserve; all on quotas, cost is the sum of the entries
-- and after them:
--   first    number of the first entry in the sums
--   last     number of the last one
--   since    one for each claim: start of the period that it is of, µs
-- Returns {1 charged | 0 was charged before | -2 a part was charged before, now_us, used, end_us, …}; as reserve,
--   used after the charge; {-2, now_us, mark}: up to which entry it was.
--   {-1, now_us}: bounds do not hold now.
local key, now = KEYS[1], now_us()
local claims, _, grants = survey(key, now)
if not claims then return { -1, now } end
local at = FIRST + #claims * GROUP
local mark = tonumber(redis.call('GET', KEYS[2]) or '0')
if mark >= tonumber(ARGV[at + 1]) then return reply(0, now, claims) end
if mark >= tonumber(ARGV[at]) then return { -2, now, mark } end
for k, claim in ipairs(claims) do
  claim.notices = ''
  if claim.since <= tonumber(ARGV[at + 1 + k]) then burn(claim, claim.cost) end
end
store(key, claims, grants, now)
redis.call('SET', KEYS[2], ARGV[at + 1], 'PX', ARGV[1])
return reply(1, now, claims)
