-- reserve: grant all claims of one request, or none.
-- Guarantee: atomic; a refusal writes nothing but the end of leases that are over; only Redis time is used; a missing TTL is repaired within a minute.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  its leases, a sorted set; only for a reservation that is held
-- ARGV[1]  ttl_ms: how long the state is kept after this write, milliseconds
-- ARGV[2]  claims: how many there are
-- ARGV[3…] groups of 5, one per claim:
--   kind     "rate", "quota", "team" or "slots"; a team's share comes right after its quota
--   field    names the limit (and the key, for limits per key) inside the hash
--   force    "0": enforced; "1": counted even beyond the cap; "2": counted if it fits, refuses nothing
--   numbers  8 doubles, little-endian, packed: cost, cap, a, b, c, d, units, rollover
--   notices  quotas: percentages of units to be told, ascending, comma-separated; teams: a line for each
--            of the account's other teams, field, units, lends, with tabs between; else empty
-- The numbers: cost in micro-units for rates, units for quotas, 1 for slots; cap is the burst in micro-units,
-- the quota's cap, or how many slots there are; of rates a micro-units come back every b µs; of quotas a, b, c, d
-- are start, end, next end and start before in µs, units the plan's own, and rollover what is carried over at most.
-- Of a team's share units are guaranteed, and rollover is 1 if it lends.
-- and after them, for a reservation that is held:
--   lease_us until when its sidecar is believed to be alive, from now on
--   orphans  "charge" or "release": what becomes of it then
--   hold     its id
-- Returns {1 granted | 0 refused, now_us, used, end_us, …}; used as of now (after the grant), in the
--   unit of cost, without what grants paid; end_us is 0 but for quotas, and -1 for
--   a claim with force 2 that did not fit and was not counted. With grants, rollover or a notice
--   six per claim: used, end_us, told (percent, before this call), carried, left (in grants), burned (by this call).
--   With teams, too: of a team's share told is what is kept for the team, left what is kept for the others.
--   {-1, now_us}: bounds do not hold now.
local key, leases = KEYS[1], KEYS[2]
local now = now_us()
if leases then rare().sweep(key, leases, now) end
local claims, granted, grants = survey(key, now)
if not claims then return { -1, now } end
if not granted then return reply(0, now, claims) end
for _, claim in ipairs(claims) do
  if claim.counted then burn(claim, claim.cost) else claim.ends = -1 end
end
store(key, claims, grants, now)
if leases then
  local at = FIRST + #claims * GROUP
  local rule, id = ARGV[at + 1], ARGV[at + 2]
  local charges, leased = rare().charges_of(claims), rule == 'release'
  for _, c in ipairs(charges) do leased = leased or c.kind == 'slots' end
  redis.call('HSET', key, 'o/' .. id, rare().write_open(rule, charges))
  if leased then
    redis.call('ZADD', leases, int(now + tonumber(ARGV[at])), id)
    rare().keep(leases, tonumber(ARGV[1]))
  end
end
return reply(1, now, claims)
