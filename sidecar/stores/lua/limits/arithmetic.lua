-- Shared by all scripts of limits: it precedes their text when they are loaded. Tests compare it with
-- the reference in sidecar/core/counting: limits.py, teams.py, account.py and their neighbours.
--
-- The account's state is one hash with these fields:
--   FIELD   one per limit: six doubles, packed for speed: used, since (µs), the highest percentage
--           that was reported, units carried over, the end of the period (µs), and what is counted.
--           The third one of a team's share is the part of its guarantee that is used or lent for
--           good. A quota has five more, for overage: settled, over, due, start of the period before
--           (µs) and the room in it, see State in counters.py; six mean that all units are settled, and
--           the others 0. Earlier versions wrote the first four. Suspended counters of the limit follow,
--           if it has any: they count something else
--   grants  one line each, in the order of their use: id, field, units, used, expires_us, priority, meter
--   kept    when the TTL of the state was last checked (µs)
--   rebuilt when counters were last rebuilt from the events (µs)
--   o/ID    an open reservation: a line "charge" or "release", then a line for each limit that was
--           charged: kind ("team" for a team's share), field, cost, since, overage that was reported
--           (-1: the request counts for overage when it is settled), and the quota's allowance.
--           Of a settled one whose answer may get lost: "settled", then the overage of each claim
-- Reservations that end with their sidecar are in the leases, a sorted set: id, until (µs).

local FIRST, GROUP = 3, 5 -- first claim in ARGV, and arguments per claim
local MOST = 9007199254740991
local KEEP_US = 60 * 1000000 -- between two checks of the TTL of the state
local min, max, ceil = math.min, math.max, math.ceil
local pack_numbers, unpack_numbers = struct.pack, struct.unpack
local STATE, QUOTA = '<dddddd', '<ddddddddddd' -- a stored counter, and one of a quota
local SHORT, SIZE, LONG = 32, 48, 88 -- bytes of one that an earlier version wrote, and of these
local LENGTHS = 4294967296 -- what is counted, divided by this, is the meter
local REPORTED_US = 300 * 1000000 -- how long a lost answer to settle can be asked for again
local SWEPT = 16 -- the most leases that one operation ends
local KEPT_US = 35 * 86400 * 1000000 -- how long the id of an expired grant stays taken

local make_rare, made -- the functions of rare.lua
local function rare()
  made = made or make_rare()
  return made
end

-- The bound at which a period ends that started at since; nil if that is c, and c is unknown (0).
local function bound_for(since, a, b, c)
  if since + floor((b - a) / 2) <= b then return b end
  return c ~= 0 and c or nil
end

-- A quota's state in the period of now. Bounds: start a, end b, next end c, previous start d.
-- Bounds may have moved since it was stored: see current() in sidecar/core/counting/limits.py. Then whether the
-- period has ended, and the next one is returned.
local function rolled(used, since, notified, carried, ends, now, a, b, c, d, units, rollover)
  if now >= b then a, b, c, d = b, c, 0, a end
  local last, until_us = ends > d, ends
  if ends == 0 then
    last, until_us = since >= d, a <= since and b or a
  elseif ends > a and ends ~= b and ends ~= c and since + floor((b - a) / 2) > a then
    until_us = bound_for(since, a, b, c)
  end
  if not until_us or until_us > now then return used, since, notified, rollover > 0 and carried or 0, until_us end
  local left = 0
  if rollover > 0 and since > 0 then
    left = rollover
    if last then left = max(0, min(left, units + carried - used)) end
  end
  a, d = max(a, until_us), a
  return 0, a, 0, left, bound_for(a, d, b, c), true
end

-- The stored counter that counts counts, without that number; then the suspended ones, nil for none.
-- Bounds as above.
local function read_counter(stored, counts, now, a, b, c)
  if not stored then return 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 end
  if #stored == LONG then
    local used, since, notified, carried, ends, known, settled, over, due, closed, room = unpack_numbers(QUOTA, stored)
    if known == counts or known == 0 then return used, since, notified, carried, ends, settled, over, due, closed, room end
  elseif #stored == SIZE then
    local used, since, notified, carried, ends, known = unpack_numbers(STATE, stored)
    if known == counts or known == 0 then return used, since, notified, carried, ends, used, 0, 0, 0, 0 end
  elseif #stored == SHORT then
    local used, since, notified, carried = unpack_numbers('<dddd', stored)
    return used, since, notified, carried, 0, used, 0, 0, 0, 0
  end
  if now >= b then a, b = b, c end
  return rare().in_use(stored, counts, now, a, b)
end

-- A bucket at now: it refills by a micro-units every b µs.
local function drained(used, since, now, a, b)
  if now < since then now = since end
  if used <= 0 or now - since >= ceil(used * b / a) then return 0, now end
  local gained = floor((now - since) * a / b)
  return used - gained, since + ceil(gained * b / a)
end

-- The claims of ARGV with the state of their limits, whether all are granted, and the account's grants.
-- Returns nil if now is outside the bounds that were sent for a quota.
local function survey(key, now)
  local n = tonumber(ARGV[2])
  local names = { 'grants', 'kept' }
  for k = 1, n do names[k + 2] = ARGV[FIRST + (k - 1) * GROUP + 1] end
  local stored = redis.call('HMGET', key, unpack(names))
  local grants = stored[1] and rare().read_grants(stored[1])
  local claims, granted = { kept = tonumber(stored[2] or 0) }, true
  for k = 1, n do
    local i = FIRST + (k - 1) * GROUP
    local kind = ARGV[i]
    local cost, cap, a, b, c, d, units, rollover, counts = unpack_numbers('<ddddddddd', ARGV[i + 3])
    local used, since, notified, carried, ends, settled, over, due, closed, room_left, suspended = read_counter(stored[k + 2], counts, now, a, b, c)
    local claim, room = nil, cap
    if kind == 'rate' or kind == 'slots' then
      if kind == 'rate' then used, since = drained(used, since, now, a, b) end
      claim = {
        kind = kind, field = names[k + 2], cost = cost, cap = cap, used = used, since = since, counted = true,
        counts = counts, -- eight entries: more would take a table of twice the size
      }
    else
      if now < a or now >= c then return nil end
      local own, most = units, rollover
      if kind == 'team' then own, most = 0, 0 end
      local before, was, allowed, is_next = since, used, units + carried, nil
      used, since, notified, carried, ends, is_next = rolled(used, since, notified, carried, ends, now, a, b, c, d, own, most)
      if not ends then return nil end
      if is_next then
        if closed ~= 0 or settled + over ~= was then closed, room_left = before, max(0, allowed - settled) end
        settled, over = 0, 0
      end
      claim = {
        kind = 'quota', field = names[k + 2], cost = cost, cap = cap, used = used, since = since, ends = ends, counted = true,
        notified = notified, reported = notified, carried = carried, left = 0, burned = 0, units = units, notices = ARGV[i + 4],
        counts = counts, settled = settled, over = over, due = due, closed = closed, room = room_left, overage = 0,
      }
      if grants and kind == 'quota' then claim.live, claim.left = rare().live_grants(claim.field, grants, now, counts) end
      if kind == 'quota' and since ~= (now >= b and b or a) then claim.started = since end
      room = cap + carried + claim.left
    end
    local force = ARGV[i + 2]
    if used + cost > room then
      if force == '0' then granted = false end
      claim.counted = force ~= '2'
      if force == '1' and kind == 'rate' then claim.counted = used + cost <= max(2 * cap, cap + cost) end
    end
    if force == '1' and kind == 'rate' then claim.most = max(2 * cap, used) end
    if kind == 'team' then
      rare().as_team(claim, claims[k - 1], key, now, { a, b, c, d }, rollover == 1, claim.notices)
      if not claim.fits and force == '0' then granted = false end
    end
    if suspended then
      claim.suspended = suspended
      rare().watch(claim)
    end
    claims[k] = claim
  end
  return claims, granted, grants
end

-- Use cost units. A quota uses the plan's units, then grants in their order, then overage or debt, and
-- notes the highest percentage that it reaches. Returns what grants paid.
local function burn(claim, cost)
  if claim.team then return rare().spend(claim, cost) end
  if claim.kind ~= 'quota' then
    claim.used = min(claim.used + cost, MOST)
    return
  end
  local paid = 0
  if claim.live then
    local wanted = max(0, cost - max(0, claim.units + claim.carried - (claim.used - claim.over)))
    for _, g in ipairs(claim.live) do
      local taken = min(wanted, g.units - g.used)
      g.used = g.used + taken
      wanted = wanted - taken
      paid = paid + taken
    end
    claim.burned = claim.burned + paid
    claim.left = claim.left - paid
  end
  claim.used = min(claim.used + cost - paid, MOST)
  if claim.notices ~= '' then
    for percent in string.gmatch(claim.notices, '%d+') do
      percent = tonumber(percent)
      if claim.used * 100 < claim.units * percent then break end
      if percent > claim.notified then claim.notified = percent end
    end
  end
  return paid
end

-- Count an ended request on a quota: units beyond the allowance, of which grants did not pay, are due.
local function count(claim, units, paid)
  local more = units - paid - max(0, claim.units + claim.carried - claim.settled)
  claim.settled = claim.settled + units - paid
  if more > 0 then
    claim.settled = claim.settled - more
    claim.over, claim.due = min(claim.over + more, MOST), min(claim.due + more, MOST)
  end
end

-- Report the overage that is due, in the reply and so in an event.
local function report(claim)
  claim.overage = max(0, claim.due)
  claim.due = claim.due - claim.overage
end

-- Write the claims back, and the grants if they changed. Check the TTL once a minute.
local function store(key, claims, grants, now)
  local writes, changed, n = {}, false, 0
  for _, claim in ipairs(claims) do
    writes[n + 1] = claim.field
    local settled = claim.settled
    if settled and (claim.suspended or settled ~= claim.used or claim.over ~= 0 or claim.due ~= 0 or claim.closed ~= 0) then
      writes[n + 2] = pack_numbers(
        QUOTA, claim.used, claim.since, claim.notified, claim.carried, claim.ends, claim.counts, settled, claim.over,
        claim.due, claim.closed, claim.room
      )
    else
      local ends = claim.kind == 'quota' and claim.ends or 0
      writes[n + 2] = pack_numbers(STATE, claim.used, claim.since, claim.notified or 0, claim.carried or 0, ends, claim.counts)
    end
    if claim.suspended then writes[n + 2] = writes[n + 2] .. rare().pass_on(claim) end
    n = n + 2
    if claim.burned and claim.burned ~= 0 then changed = true end
  end
  if changed then
    writes[n + 1], writes[n + 2] = 'grants', rare().write_grants(grants)
    n = n + 2
  end
  local due = now - claims.kept >= KEEP_US or now < claims.kept
  if due then writes[n + 1], writes[n + 2] = 'kept', int(now) end
  if #writes > 0 then redis.call('HSET', key, unpack(writes)) end
  if due then rare().keep(key, tonumber(ARGV[1])) end
end

-- The reply: status, now, then used and end_us of each claim, or eight numbers if any claim has more.
local function reply(status, now, claims, more)
  local out = { status, now }
  for k, claim in ipairs(claims) do
    out[2 * k + 1], out[2 * k + 2] = claim.used, claim.ends or 0
    if claim.kind == 'quota' and not more then
      more = claim.left ~= 0 or claim.burned ~= 0 or claim.carried > 0 or claim.notified ~= claim.reported
        or (claim.overage or 0) > 0 or claim.started
    end
  end
  if not more then return out end
  for k, claim in ipairs(claims) do
    local at = 8 * k - 6
    local notified = claim.team and max(0, claim.units - claim.notified) or claim.reported
    out[at + 1], out[at + 2], out[at + 3] = claim.used, claim.ends or 0, notified or 0
    out[at + 4], out[at + 5], out[at + 6] = claim.carried or 0, claim.left or 0, claim.burned or 0
    out[at + 7], out[at + 8] = claim.overage or 0, claim.started or 0
  end
  return out
end

