-- charge: count requests that a sidecar allowed while Redis was unavailable.
-- Guarantee: atomic; once per entry of a journal, however often it runs; debt is recorded, not clipped; a quota in a later period stays unchanged; no threshold is reported; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  the number of the last charged entry of this journal and API key
-- ARGV[1]  ttl_ms: TTL of the state and of that number after this write, milliseconds
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim, as for reserve; all on quotas, cost is the sum of the entries
-- and after them:
--   first    number of the first entry in the sums
--   last     number of the last entry
--   until    one for each claim: the instant of its last request, µs
--   reported     one for each claim: the overage that the requests' events report; -1: they have no events
-- Returns {1 charged | 0 was charged before | -2 a part was charged before, now_us, used, end_us, …}; as reserve,
--   used after the charge; {-2, now_us, number}: of the last charged entry.
--   {-1, now_us}: now is outside the bounds.
local key, now = KEYS[1], now_us()
local claims, _, grants = survey(key, now)
if not claims then return { -1, now } end
local at = FIRST + #claims * GROUP
local charged = tonumber(redis.call('GET', KEYS[2]) or '0')
if charged >= tonumber(ARGV[at + 1]) then return reply(0, now, claims) end
if charged >= tonumber(ARGV[at]) then return { -2, now, charged } end
for k, claim in ipairs(claims) do
  claim.notices = ''
  local last, reported = tonumber(ARGV[at + 1 + k]), tonumber(ARGV[at + 1 + #claims + k])
  if claim.suspended then claim.starts = rare().starts_until(claim, last) end
  if claim.since <= last then
    local paid = burn(claim, claim.cost)
    if claim.settled and reported >= 0 then
      count(claim, claim.cost, paid)
      claim.due = claim.due - reported
    elseif claim.settled then
      claim.settled = claim.settled - paid
    end
  else
    claim.change = { claim.cost, reported >= 0 and claim.cost or 0 }
    if claim.settled and reported >= 0 and claim.closed > 1 and claim.closed <= last then
      rare().count_closed(claim, claim.cost)
      claim.due = claim.due - reported
    end
  end
end
store(key, claims, grants, now)
redis.call('SET', KEYS[2], ARGV[at + 1], 'PX', ARGV[1])
return reply(1, now, claims)
