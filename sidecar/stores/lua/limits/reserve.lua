-- reserve: grant all claims of one request, or none.
-- Guarantee: atomic; a refusal writes nothing, except that it ends expired leases; only Redis time is used; a missing TTL is repaired within a minute.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  its leases, a sorted set; only for a reservation that stays open
-- ARGV[1]  ttl_ms: TTL of the state after this write, milliseconds
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim:
--   kind     "rate", "quota", "team" or "slots"; a team's share follows its quota
--   field    of the limit (with the key, for limits per key) in the hash
--   force    "0": enforced; "1": counted beyond the cap, see below; "2": counted if it fits, never refuses
--   numbers  9 doubles, little-endian, packed: cost, cap, a, b, c, d, units, rollover, counts
--   notices  quotas: percentages of units to report, ascending, comma-separated; teams: a line for each
--            of the account's other teams, field, units, lends, with tabs between; else empty
-- The numbers, by kind:
-- Rates: cost and cap (the burst) in micro-units; a micro-units come back every b µs.
-- Quotas: cost, cap, units (the plan's own) and rollover (the most that is carried over) in units; a, b, c, d
-- are start, end, next end and previous start in µs.
-- Counts: what a rate, quota or team's share counts, see sidecar/core/counting/counts.py. A stored counter of
-- something else is not this one.
-- Slots: cost is 1, cap the number of slots.
-- Teams: as quotas, but units are guaranteed, and rollover is 1 if the team lends.
-- Beyond the cap, a rate is counted up to a debt of one burst or of the request's own cost.
-- and after them, for a reservation that stays open:
--   lease_us length of its lease from now on: until then, its sidecar counts as alive
--   orphans  "charge" or "release": what happens to its cost when the lease ends
--   late     1: its cost may change, so that it counts for overage when it is settled; else 0
--   hold     id of the reservation
-- Returns {1 granted | 0 refused, now_us, used, end_us, …}; used as of now (after the grant), in the
--   unit of cost, without the units that grants paid; end_us is 0 except for quotas, and -1 for
--   a claim with force 1 or 2 that was not counted. With grants, rollover, a notice, overage, teams or a period that is not the calendar's
--   eight per claim: used, end_us, notified (percent, before this request), carried, left (in grants), burned (by this request),
--   overage (that the event of this request has to report), started_us (of the period, if it is not the calendar's start; else 0).
--   Of a team's share, notified is what is left of its guarantee, left of the other teams' guarantees.
--   {-1, now_us}: now is outside the bounds.
local key, leases = KEYS[1], KEYS[2]
local now = now_us()
if leases then rare().sweep(key, leases, now) end
local claims, granted, grants = survey(key, now)
if not claims then return { -1, now } end
if not granted then return reply(0, now, claims) end
local at = FIRST + #claims * GROUP
local late = leases and ARGV[at + 2] == '1'
for _, claim in ipairs(claims) do
  if claim.counted then
    local paid = burn(claim, claim.cost)
    if late then
      if claim.settled then
        claim.settled = claim.settled - paid
        if claim.closed == 0 then claim.closed = 1 end -- from now on, a period is kept after its end
      end
    elseif claim.settled then
      count(claim, claim.cost, paid)
      if claim.due ~= 0 then report(claim) end
    end
  else
    claim.ends = -1
  end
end
store(key, claims, grants, now)
if leases then
  local rule, id = ARGV[at + 1], ARGV[at + 3]
  local charges, leased = rare().charges_of(claims, late), rule == 'release'
  for _, c in ipairs(charges) do leased = leased or c.kind == 'slots' end
  redis.call('HSET', key, 'o/' .. id, rare().write_open(rule, charges))
  if leased then
    redis.call('ZADD', leases, int(now + tonumber(ARGV[at])), id)
    rare().keep(leases, tonumber(ARGV[1]))
  end
end
return reply(1, now, claims)
