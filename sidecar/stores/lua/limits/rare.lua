-- Functions that few requests need: grants, teams, open reservations, refunds. A script creates them
-- with the first `rare()`, as creating them takes a fifth of the time of a script.

local function read_grants(text)
  local grants = {}
  for id, field, units, used, expires, priority in string.gmatch(text or '', '([^\t\n]*)\t([^\t]*)\t(%d+)\t(%d+)\t(%d+)\t(-?%d+)\n') do
    grants[#grants + 1] = {
      id = id, field = field, units = tonumber(units), used = tonumber(used),
      expires = tonumber(expires), priority = tonumber(priority),
    }
  end
  return grants
end

local function write_grants(grants)
  local lines = {}
  for i, g in ipairs(grants) do
    lines[i] = table.concat({ g.id, g.field, int(g.units), int(g.used), int(g.expires), int(g.priority) }, '\t') .. '\n'
  end
  return table.concat(lines)
end

-- A quota's live grants, in the order of their use, and the units left in them.
local function live_grants(field, grants, now)
  local live, left = {}, 0
  for _, g in ipairs(grants) do
    if g.field == field and g.expires > now then
      live[#live + 1] = g
      left = left + g.units - g.used
    end
  end
  return live, left
end

-- An open reservation: its rule, and its charges.
local function read_open(text)
  local rule, charges = string.match(text, '^(%a+)\n'), {}
  for kind, field, cost, since, reported, allowed in string.gmatch(text, '(%a+)\t([^\t]*)\t(%d+)\t(%d+)\t?(-?%d*)\t?(%d*)\n') do
    charges[#charges + 1] = {
      kind = kind, field = field, cost = tonumber(cost), since = tonumber(since),
      reported = tonumber(reported) or 0, allowed = tonumber(allowed) or 0,
    }
  end
  return rule, charges
end

local function write_open(rule, charges)
  local lines = { rule .. '\n' }
  for _, c in ipairs(charges) do
    lines[#lines + 1] = table.concat({ c.kind, c.field, int(c.cost), int(c.since), int(c.reported), int(c.allowed) }, '\t') .. '\n'
  end
  return table.concat(lines)
end

-- The charges of a reservation, for its settlement. Late: it counts for overage when it is settled.
local function charges_of(claims, late)
  local charges = {}
  for _, claim in ipairs(claims) do
    if claim.counted then
      local c = { kind = claim.team and 'team' or claim.kind, field = claim.field, cost = claim.cost, since = claim.since }
      c.reported, c.allowed = -1, 0
      if claim.settled then c.reported, c.allowed = late and -1 or claim.overage, claim.units + claim.carried end
      charges[#charges + 1] = c
    end
  end
  return charges
end

-- What is left of a guarantee of units, and the part that is used or lent for good, when this percentage
-- of the period is over.
local function guaranteed(units, lends, used, spent, percent)
  spent = max(spent, used)
  if lends then spent = max(spent, floor(units * percent / 100)) end
  return max(0, units - spent), spent
end

-- What is left of the guarantees of an account's other teams. Counts and bounds are those of the claim.
local function guaranteed_to(others, key, now, counts, bounds, percent)
  local fields, units, lends, sum = {}, {}, {}, 0
  for field, guaranteed, lent in string.gmatch(others, '([^\t\n]*)\t(%d+)\t([01])\n') do
    local n = #fields + 1
    fields[n], units[n], lends[n] = field, tonumber(guaranteed), lent == '1'
  end
  if #fields == 0 then return 0 end
  for n, stored in ipairs(redis.call('HMGET', key, unpack(fields))) do
    local used, since, spent, _, ends, known = read_state(stored)
    local a, b, c, d = unpack(bounds)
    used, since, spent = rolled(used, since, spent, 0, ends, known, now, a, b, c, d, 0, 0, counts)
    sum = sum + guaranteed(units[n], lends[n], used, spent, percent)
  end
  return sum
end

-- A claim on a team's share, which follows the one on its quota. It counts like a quota. It refuses
-- units that are not guaranteed to the team and would reduce the other teams' guarantees.
local function as_team(claim, quota, key, now, bounds, lends, others)
  local start = now >= bounds[2] and bounds[2] or bounds[1]
  local percent, left = floor((now - start) * 100 / (claim.ends - start)), 0
  left, claim.notified = guaranteed(claim.units, lends, claim.used, claim.notified, percent)
  claim.kind, claim.team, claim.reported, claim.notices, claim.settled = 'quota', true, -1, '', nil
  claim.left = guaranteed_to(others, key, now, claim.counts, bounds, percent)
  local room = quota and quota.cap + quota.carried + quota.left - quota.used or MOST
  claim.fits = claim.cost <= left or claim.cost + claim.left <= room
end

-- Add units to a team's counter, and to the spent part of its guarantee; below 0: subtract.
local function spend(claim, units)
  claim.used = min(max(0, claim.used + units), MOST)
  claim.notified = min(max(0, claim.notified + units), MOST)
end

-- The reverse of burn: return overage of open reservations, then to grants from the last used, then the
-- plan's units. Returns what grants got.
local function give_back(claim, units, allowed)
  if claim.team then return spend(claim, -units) end
  local over = min(units, max(0, claim.used - claim.over - allowed))
  local wanted, live = units - over, claim.live or {}
  for i = #live, 1, -1 do
    local g = live[i]
    local given = min(wanted, g.used)
    g.used = g.used - given
    wanted = wanted - given
  end
  local returned, own = units - over - wanted, min(wanted, max(0, claim.used - claim.over - over))
  claim.left = claim.left + returned
  claim.burned = claim.burned - returned
  claim.used = claim.used - over - own
  return returned
end

-- Undo count for a request without an event; reported: the overage that the reply reported.
local function uncount(claim, units, reported)
  local less = min(reported, units)
  claim.settled = claim.settled - (units - less)
  claim.over, claim.due = max(0, claim.over - less), min(claim.due + reported - less, MOST)
end

-- Count a request of the period before this one, which grants do not pay any more.
local function count_closed(claim, units)
  local over = max(0, units - claim.room)
  claim.due, claim.room = min(claim.due + over, MOST), claim.room - (units - over)
end

-- Correct a quota's charge c to the claim's cost: the estimate is given back, and the cost is used. So a
-- pack that was bought in between pays for what would be overage. Billed: an event reports overage.
local function correct(claim, c, billed)
  local late = c.reported < 0
  if claim.since == c.since then
    if not late and claim.cost == c.cost then return end
    if not late then uncount(claim, c.cost, c.reported) end
    local before = claim.used
    local returned = give_back(claim, c.cost, claim.units + claim.carried)
    claim.settled = claim.settled + returned
    local kept = c.cost - returned - (before - claim.used) -- expired grants paid it
    if claim.cost < c.cost then claim.notices = '' end
    count(claim, claim.cost, burn(claim, max(0, claim.cost - kept)))
  elseif late and claim.closed == c.since then
    count_closed(claim, claim.cost)
  end
  if late and billed then report(claim) end
end

-- Take back a charge whose request has no event.
local function release(key, c, now)
  local stored = redis.call('HGET', key, c.field)
  if not stored then return end
  local used, since, notified, carried, ends, counts, settled, over, due, closed, room = read_state(stored)
  if c.kind == 'quota' and since == c.since then
    local grants = read_grants(redis.call('HGET', key, 'grants') or '')
    local claim = { used = used, settled = settled, over = over, due = due, left = 0, burned = 0 }
    claim.live = live_grants(c.field, grants, now)
    if c.reported >= 0 then uncount(claim, c.cost, c.reported) end
    claim.settled = claim.settled + give_back(claim, c.cost, c.allowed)
    if claim.burned ~= 0 then redis.call('HSET', key, 'grants', write_grants(grants)) end
    redis.call('HSET', key, c.field, pack_numbers(
      '<ddddddddddd', claim.used, since, notified, carried, ends, counts, claim.settled, claim.over, claim.due, closed, room
    ))
  elseif c.kind ~= 'quota' and (c.kind ~= 'team' or since == c.since) then
    if c.kind == 'team' then notified = max(0, notified - c.cost) end
    redis.call('HSET', key, c.field, pack_numbers('<dddddd', max(0, used - c.cost), since, notified, carried, ends, counts))
  end
end

-- End expired leases: release slots, and keep or release charges by the rule of each reservation.
local function sweep(key, leases, now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, SWEPT)) do
    local text = redis.call('HGET', key, 'o/' .. id)
    local rule, charges = read_open(text or '')
    local rest = {}
    for _, c in ipairs(charges) do
      if c.kind ~= 'slots' then rest[#rest + 1] = c end
      if c.kind == 'slots' or rule == 'release' then release(key, c, now) end
    end
    if rule == 'charge' and #rest > 0 then
      redis.call('HSET', key, 'o/' .. id, write_open(rule, rest))
    else
      redis.call('HDEL', key, 'o/' .. id)
    end
    redis.call('ZREM', leases, id)
  end
end

-- Give a key a TTL of at least ttl milliseconds, less one minute.
local function keep(key, ttl)
  if redis.call('PTTL', key) < ttl - 60000 then redis.call('PEXPIRE', key, ttl) end
end

return {
  read_grants = read_grants, write_grants = write_grants, live_grants = live_grants, read_open = read_open, write_open = write_open, charges_of = charges_of,
  guaranteed = guaranteed, guaranteed_to = guaranteed_to, as_team = as_team, spend = spend, sweep = sweep,
  give_back = give_back, uncount = uncount, count_closed = count_closed, correct = correct, keep = keep,
}
