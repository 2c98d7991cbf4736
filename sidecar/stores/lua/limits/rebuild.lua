-- rebuild: add units to quotas that the events have and the counters have lost.
-- Guarantee: atomic, all or nothing; requests that were counted since the read stay counted; nothing changes if another rebuild, or a loss of the state, came after the read; no threshold is reported; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- ARGV[1]  ttl_ms: TTL of the state after this write, milliseconds
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim, as for reserve; all on quotas, cost is the units to add, or below 0, to subtract
-- and after them:
--   rebuilt  the state's field of this name as it was read; "0" if it was missing
--   counters three doubles for each claim, packed: used and since as they were read, and the overage that events
--     have reported of the units to add; -1: not known, so as much as these are beyond plan and grants
-- Returns {1 rebuilt | 0 changed since it was read, now_us, used, end_us, …}; as reserve, used after the change.
--   {-1, now_us}: now is outside the bounds.
local key, now = KEYS[1], now_us()
local claims, _, grants = survey(key, now)
if not claims then return { -1, now } end
local at = FIRST + #claims * GROUP
local rebuilt = redis.call('HGET', key, 'rebuilt') or '0'
if rebuilt ~= ARGV[at] then return reply(0, now, claims) end
for k, claim in ipairs(claims) do
  local used, since, reported = unpack_numbers('<ddd', ARGV[at + 1], 24 * k - 23)
  claim.lost_overage = reported
  -- Requests counted since the read are allowed when adding, but not when subtracting.
  local same = claim.used == used or (claim.used > used and claim.cost >= 0)
  if claim.since ~= since or not same then return reply(0, now, claims) end
end
for _, claim in ipairs(claims) do
  claim.notices, claim.starts = '', {} -- the suspended counters were not compared with the events
  if string.sub(claim.field, 1, 1) == 't' then claim.settled = nil end -- a team's share has no overage
  if claim.cost >= 0 then
    local units, known = claim.cost, claim.settled and claim.lost_overage >= 0
    if known then
      local over = min(claim.lost_overage, units)
      claim.used, claim.over = min(claim.used + over, MOST), min(claim.over + over, MOST)
      claim.due, units = claim.due - (claim.lost_overage - over), units - over
    end
    local paid, due = burn(claim, units), claim.due
    if claim.settled then
      count(claim, units, paid)
      if not known then claim.due = due end
    end
  else
    local returned = rare().give_back(claim, -claim.cost, claim.units + claim.carried)
    if claim.settled then claim.settled = min(claim.settled + returned, claim.used - claim.over) end -- it had no event
  end
end
store(key, claims, grants, now)
redis.call('HSET', key, 'rebuilt', int(max(now, tonumber(rebuilt) + 1)))
return reply(1, now, claims)
