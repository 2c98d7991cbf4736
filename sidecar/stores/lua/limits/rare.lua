-- Functions that few requests need: grants, teams, open reservations, refunds. A script creates them
-- with the first `rare()`, as creating them takes a fifth of the time of a script.

local function read_grants(text)
  local grants = {}
  for id, field, units, used, expires, priority, meter in string.gmatch(text or '', '([^\t\n]*)\t([^\t]*)\t(%d+)\t(%d+)\t(%d+)\t(-?%d+)\t?(%d*)\n') do
    grants[#grants + 1] = {
      id = id, field = field, units = tonumber(units), used = tonumber(used),
      expires = tonumber(expires), priority = tonumber(priority), meter = tonumber(meter) or 0,
    }
  end
  return grants
end

local function write_grants(grants)
  local lines = {}
  for i, g in ipairs(grants) do
    lines[i] = table.concat({ g.id, g.field, int(g.units), int(g.used), int(g.expires), int(g.priority), int(g.meter) }, '\t') .. '\n'
  end
  return table.concat(lines)
end

-- A quota's live grants, in the order of their use, and the units left in them.
local function live_grants(field, grants, now, counts)
  local live, left, meter = {}, 0, floor(counts / LENGTHS)
  for _, g in ipairs(grants) do
    if g.field == field and g.expires > now and (g.meter == 0 or g.meter == meter) then
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

local MOST_SUSPENDED = 3 -- counters of one limit; the one that was used longest ago is dropped
local BUCKET_KEPT_US = 86400 * 1000000 -- a suspended bucket has no period, so it is kept for a day

local function meter(counts) return floor(counts / LENGTHS) end

-- All counters of a stored state, the one in use first, and whether they are a quota's.
local function read_counters(stored)
  local counters, form, size = {}, QUOTA, LONG
  if #stored % LONG ~= 0 then form, size = STATE, SIZE end
  if #stored == SHORT then form, size = '<dddd', SHORT end
  for at = 1, #stored, size do
    local n = { unpack_numbers(form, stored, at) }
    if size < LONG then n[7] = n[1] end
    counters[#counters + 1] = {
      used = n[1], since = n[2], notified = n[3], carried = n[4], ends = size > SHORT and n[5] or 0, counts = size > SHORT and n[6] or 0,
      settled = n[7], over = size == LONG and n[8] or 0, due = size == LONG and n[9] or 0, closed = size == LONG and n[10] or 0,
      room = size == LONG and n[11] or 0,
    }
  end
  return counters
end

local function pack_counters(counters, is_quota)
  local packed = {}
  for i, c in ipairs(counters) do
    if is_quota then
      packed[i] = pack_numbers(
        QUOTA, c.used, c.since, c.notified, c.carried, c.ends, c.counts, c.settled, c.over, c.due, c.closed, c.room
      )
    else
      packed[i] = pack_numbers(STATE, c.used, c.since, c.notified, c.carried, c.ends, c.counts)
    end
  end
  return table.concat(packed)
end

-- The counter that counts counts, and the others, which are suspended. A new one starts at 0 and now,
-- or with what a counter of the same meter has counted, if all of that was in the period from a to b.
-- It reports the overage that is due of its meter.
local function in_use(stored, counts, now, a, b)
  local found, others, suspended = nil, {}, {}
  for _, c in ipairs(read_counters(stored)) do
    if not found and (c.counts == 0 or c.counts == counts) then found = c else others[#others + 1] = c end
  end
  if not found then
    found = { used = 0, since = now, notified = 0, carried = 0, ends = b, settled = 0, over = 0, due = 0, closed = 0, room = 0 }
    for _, c in ipairs(others) do
      if a <= c.since and c.since <= found.since and meter(c.counts) == meter(counts) then
        found.used, found.since, found.settled = c.used, c.since, c.settled + c.over
      end
    end
  end
  for _, c in ipairs(others) do
    if meter(c.counts) == meter(counts) then found.due, c.due = min(found.due + c.due, MOST), 0 end
    if c.ends == 0 then c.ends = now + BUCKET_KEPT_US end
    if c.ends > now and #suspended < MOST_SUSPENDED then suspended[#suspended + 1] = c end
  end
  if #suspended == 0 then suspended = nil end
  return found.used, found.since, found.notified, found.carried, found.ends, found.settled, found.over, found.due, found.closed, found.room, suspended
end

-- Note what a claim's counter is before the operation, for pass_on.
local function watch(claim)
  claim.was_used, claim.was_notified = claim.used, claim.notified or 0
  claim.was_settled = claim.settled and claim.settled + claim.over or 0
end

local function change(counter, used, settled, spent)
  counter.used = min(max(0, counter.used + used), MOST)
  counter.settled = counter.settled + settled
  counter.notified = min(max(0, counter.notified + spent), MOST)
end

-- Pack a claim's suspended counters, after those of its meter have changed as its own counter did. If
-- claim.starts is given, only periods that started then have the charge. claim.change, if given: used
-- and settled, as its own counter does not have the charge.
local function pass_on(claim)
  local used, settled, spent = claim.used - claim.was_used, 0, 0
  if claim.settled then settled = claim.settled + claim.over - claim.was_settled end
  if claim.change then used, settled = claim.change[1], claim.settled and claim.change[2] or 0 end
  if claim.team then spent = claim.change and used or claim.notified - claim.was_notified end
  for _, c in ipairs(claim.suspended) do
    if meter(c.counts) == meter(claim.counts) and (not claim.starts or claim.starts[c.since]) then change(c, used, settled, spent) end
  end
  return pack_counters(claim.suspended, claim.settled)
end

-- The starts of the periods of a claim's counters, its own first: a charge is in all of one meter.
local function starts_of(claim)
  local starts, known = { claim.since }, { [claim.since] = true }
  for _, c in ipairs(claim.suspended or {}) do
    if meter(c.counts) == meter(claim.counts) and not known[c.since] then
      starts[#starts + 1], known[c.since] = c.since, true
    end
  end
  return starts
end

-- Those of them that are not after an instant.
local function starts_until(claim, instant)
  local starts = {}
  for _, since in ipairs(starts_of(claim)) do
    if since <= instant then starts[since] = true end
  end
  return starts
end

-- The charges of a reservation, for its settlement. Late: it counts for overage when it is settled.
local function charges_of(claims, late)
  local charges = {}
  for _, claim in ipairs(claims) do
    if claim.counted then
      local reported, allowed = -1, 0
      if claim.settled then reported, allowed = late and -1 or claim.overage, claim.units + claim.carried end
      for _, since in ipairs(starts_of(claim)) do
        charges[#charges + 1] = {
          kind = claim.team and 'team' or claim.kind, field = claim.field, cost = claim.cost, since = since, reported = reported, allowed = allowed,
        }
        allowed = 0
      end
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
    local a, b, c, d = unpack(bounds)
    local used, since, spent, _, ends = read_counter(stored, counts, now, a, b, c)
    used, since, spent = rolled(used, since, spent, 0, ends, now, a, b, c, d, 0, 0)
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
  if claim.starts[claim.since] then
    if not late and claim.cost == c.cost then return end
    if not late then uncount(claim, c.cost, c.reported) end
    local before = claim.used
    local returned = give_back(claim, c.cost, claim.units + claim.carried)
    claim.settled = claim.settled + returned
    local kept = c.cost - returned - (before - claim.used) -- expired grants paid it
    if claim.cost < c.cost then claim.notices = '' end
    count(claim, claim.cost, burn(claim, max(0, claim.cost - kept)))
  elseif late and claim.starts[claim.closed] then
    count_closed(claim, claim.cost)
  end
  if late and billed then report(claim) end
end

-- Take back the charges of one field whose request has no event. The first one is on the counter that
-- was in use.
local function release(key, charges, now)
  local c = charges[1]
  local stored = redis.call('HGET', key, c.field)
  if not stored then return end
  local counters, starts, first = read_counters(stored), {}, nil
  if c.kind ~= 'quota' and c.kind ~= 'team' then
    counters[1].used = max(0, counters[1].used - c.cost)
    return redis.call('HSET', key, c.field, pack_counters(counters))
  end
  local used, settled, spent = -c.cost, c.reported >= 0 and -c.cost or 0, 0
  if c.kind == 'team' then settled, spent = 0, -c.cost end
  for _, one in ipairs(charges) do starts[one.since] = true end
  for _, counter in ipairs(counters) do
    if c.kind == 'quota' and not first and counter.since == c.since then
      local grants, before = read_grants(redis.call('HGET', key, 'grants') or ''), counter.settled + counter.over
      first, used, counter.left, counter.burned = counter, counter.used, 0, 0
      counter.live = live_grants(c.field, grants, now, counter.counts)
      if c.reported >= 0 then uncount(counter, c.cost, c.reported) end
      counter.settled = counter.settled + give_back(counter, c.cost, c.allowed)
      if counter.burned ~= 0 then redis.call('HSET', key, 'grants', write_grants(grants)) end
      used, settled = counter.used - used, counter.settled + counter.over - before
    end
  end
  for _, counter in ipairs(counters) do
    if counter ~= first and starts[counter.since] then change(counter, used, settled, spent) end
  end
  redis.call('HSET', key, c.field, pack_counters(counters, c.kind == 'quota'))
end

-- End expired leases: release slots, and keep or release charges by the rule of each reservation.
local function sweep(key, leases, now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, SWEPT)) do
    local text = redis.call('HGET', key, 'o/' .. id)
    local rule, charges = read_open(text or '')
    local rest, ended, of_field = {}, {}, {}
    for _, c in ipairs(charges) do
      if c.kind ~= 'slots' then rest[#rest + 1] = c end
      if c.kind == 'slots' or rule == 'release' then
        if not of_field[c.field] then
          of_field[c.field] = {}
          ended[#ended + 1] = of_field[c.field]
        end
        table.insert(of_field[c.field], c)
      end
    end
    for _, some in ipairs(ended) do release(key, some, now) end
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
  in_use = in_use, watch = watch, pass_on = pass_on, starts_until = starts_until,
}
