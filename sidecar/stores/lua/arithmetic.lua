-- Shared by all operations; put in front of them when they are loaded. The reference that every
-- line is tested against is sidecar/core/limits.py, ledger.py and afterwards.py beside it.
-- All numbers are integers up to 2^53, exact in a double; text of them is made by int() only,
-- since tostring() rounds to 14 digits.
--
-- The account's state is one hash. It holds
--   FIELD   of each limit four doubles, packed: what is used, since when (µs), the highest
--           percentage told, what was carried over; packed since it is read and written on every call
--   grants  a line each: id, field, units, used, expires_us, priority, in the order of their use
--   kept    when it was last seen to that the state has a TTL (µs)
--   rebuilt when counters were last rebuilt from the events (µs)
--   o/ID    an open reservation: a line "charge" or "release", then one for each limit that it
--           took from: kind, field, cost, since
-- Open reservations that end with their sidecar stand in the leases, a sorted set: id, until (µs).

local FIRST, GROUP = 3, 5 -- where the claims begin in ARGV, and how many arguments each has
local MOST = 9007199254740991
local KEEP_US = 60 * 1000000 -- how often it is looked whether the state has its TTL
local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local pack_numbers, unpack_numbers = struct.pack, struct.unpack
local SWEPT = 16 -- leases that one operation ends at most
local KEPT_US = 35 * 86400 * 1000000 -- how long an expired grant's id stays taken

local function now_us() -- Redis time in microseconds
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function int(n) return string.format('%.0f', n) end

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

-- An open reservation: its rule, and its charges.
local function read_open(text)
  local rule, charges = string.match(text, '^(%a+)\n'), {}
  for kind, field, cost, since in string.gmatch(text, '(%a+)\t([^\t]*)\t(%d+)\t(%d+)\n') do
    charges[#charges + 1] = { kind = kind, field = field, cost = tonumber(cost), since = tonumber(since) }
  end
  return rule, charges
end

local function write_open(rule, charges)
  local lines = { rule .. '\n' }
  for _, c in ipairs(charges) do
    lines[#lines + 1] = table.concat({ c.kind, c.field, int(c.cost), int(c.since) }, '\t') .. '\n'
  end
  return table.concat(lines)
end

-- What a reservation took, for when it is settled.
local function charges_of(claims)
  local charges = {}
  for _, claim in ipairs(claims) do
    if claim.counted then
      charges[#charges + 1] = { kind = claim.kind, field = claim.field, cost = claim.cost, since = claim.since }
    end
  end
  return charges
end

-- A quota in the period that now falls in: its state and its end. Bounds: start a, end b, next end c,
-- start before d.
local function rolled(used, since, told, carried, now, a, b, c, d, units, rollover)
  if now >= b then a, b, d = b, c, a end
  if a <= since then return used, since, told, rollover > 0 and carried or 0, b end
  local left = 0
  if rollover > 0 and since > 0 then
    left = rollover
    if since >= d then left = max(0, min(left, units + carried - used)) end
  end
  return 0, a, 0, left, b
end

-- A bucket at now: a micro-units come back every b µs.
local function drained(used, since, now, a, b)
  if now < since then now = since end
  if used <= 0 or now - since >= ceil(used * b / a) then return 0, now end
  local gained = floor((now - since) * a / b)
  return used - gained, since + ceil(gained * b / a)
end

-- A quota's live grants, in the order of their use, and what they hold.
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

-- All claims of ARGV as they stand now, whether all are granted, and the account's grants.
-- Returns nil when now lies outside the bounds that the caller sent for a quota.
local function survey(key, now)
  local n = tonumber(ARGV[2])
  local names = { 'grants', 'kept' }
  for k = 1, n do names[k + 2] = ARGV[FIRST + (k - 1) * GROUP + 1] end
  local stored = redis.call('HMGET', key, unpack(names))
  local grants = stored[1] and read_grants(stored[1])
  local claims, granted = { kept = tonumber(stored[2] or 0) }, true
  for k = 1, n do
    local i = FIRST + (k - 1) * GROUP
    local kind = ARGV[i]
    local cost, cap, a, b, c, d, units, rollover = unpack_numbers('<dddddddd', ARGV[i + 3])
    local used, since, told, carried = 0, 0, 0, 0
    if stored[k + 2] then used, since, told, carried = unpack_numbers('<dddd', stored[k + 2]) end
    local was_told, ends, left, live = told, 0, 0, nil
    if kind == 'rate' then
      used, since = drained(used, since, now, a, b)
    elseif kind == 'quota' then
      if now < a or now >= c then return nil end
      used, since, told, carried, ends = rolled(used, since, told, carried, now, a, b, c, d, units, rollover)
      was_told = told
      if grants then live, left = live_grants(names[k + 2], grants, now) end
    end
    local counted = true
    if used + cost > cap + carried + left then
      local force = ARGV[i + 2]
      if force == '0' then granted = false end
      counted = force ~= '2'
    end
    claims[k] = {
      kind = kind, field = names[k + 2], cost = cost, used = used, since = since, told = told, was_told = was_told,
      carried = carried, ends = ends, left = left, burned = 0, cap = cap, counted = counted, units = units, live = live,
      force = ARGV[i + 2], notices = ARGV[i + 4],
    }
  end
  return claims, granted, grants
end

-- Use cost units: the plan's own, then grants in their order, then overage or debt. What is
-- reached by that is told.
local function burn(claim, cost)
  if claim.live then
    local wanted = max(0, cost - max(0, claim.units + claim.carried - claim.used))
    for _, g in ipairs(claim.live) do
      local taken = min(wanted, g.units - g.used)
      g.used = g.used + taken
      wanted = wanted - taken
      claim.burned = claim.burned + taken
    end
    claim.left = claim.left - claim.burned
  end
  claim.used = min(claim.used + cost - claim.burned, MOST)
  if claim.notices ~= '' then
    for percent in string.gmatch(claim.notices, '%d+') do
      percent = tonumber(percent)
      if claim.used * 100 < claim.units * percent then break end
      if percent > claim.told then claim.told = percent end
    end
  end
end

-- The way back of burn: overage, then grants from the last used, then the plan's own.
local function give_back(claim, units)
  local wanted = units - min(units, max(0, claim.used - claim.units - claim.carried))
  local returned, live = 0, claim.live or {}
  for i = #live, 1, -1 do
    local g = live[i]
    local given = min(wanted, g.used)
    g.used = g.used - given
    wanted = wanted - given
    returned = returned + given
  end
  claim.left = claim.left + returned
  claim.burned = -returned
  claim.used = max(0, claim.used - (units - returned))
end

local function keep(key, ttl)
  if redis.call('PTTL', key) < ttl - 60000 then redis.call('PEXPIRE', key, ttl) end
end

-- Write the claims back, with the grants if any of them changed, and see to the TTL once a minute.
local function store(key, claims, grants, now)
  local writes, changed, n = {}, false, 0
  for _, claim in ipairs(claims) do
    writes[n + 1] = claim.field
    writes[n + 2] = pack_numbers('<dddd', claim.used, claim.since, claim.told, claim.carried)
    n = n + 2
    if claim.burned ~= 0 then changed = true end
  end
  if changed then
    writes[n + 1], writes[n + 2] = 'grants', write_grants(grants)
    n = n + 2
  end
  local due = now - claims.kept >= KEEP_US or now < claims.kept
  if due then writes[n + 1], writes[n + 2] = 'kept', int(now) end
  if #writes > 0 then redis.call('HSET', key, unpack(writes)) end
  if due then keep(key, tonumber(ARGV[1])) end
end

-- status, now, then of each claim used and end_us, or all six when there is more to say of any.
local function reply(status, now, claims, more)
  local out = { status, now }
  for k, claim in ipairs(claims) do
    out[2 * k + 1], out[2 * k + 2] = claim.used, claim.ends
    more = more or claim.left ~= 0 or claim.burned ~= 0 or claim.carried > 0 or claim.told ~= claim.was_told
  end
  if not more then return out end
  for k, claim in ipairs(claims) do
    local at = 6 * k - 4
    out[at + 1], out[at + 2], out[at + 3] = claim.used, claim.ends, claim.was_told
    out[at + 4], out[at + 5], out[at + 6] = claim.carried, claim.left, claim.burned
  end
  return out
end

-- What is released and is not in the counter was paid by grants: it is theirs again, last used first.
local function repay(key, charges)
  local text = redis.call('HGET', key, 'grants')
  if not text then return end
  local grants = read_grants(text)
  for _, c in ipairs(charges) do
    local stored = c.kind == 'quota' and redis.call('HGET', key, c.field)
    local used, since = 0, 0
    if stored then used, since = unpack_numbers('<dddd', stored) end
    local wanted = stored and since == c.since and max(0, c.cost - used) or 0
    for i = #grants, 1, -1 do
      local g = grants[i]
      if g.field == c.field then
        local given = min(wanted, g.used)
        g.used, wanted = g.used - given, wanted - given
      end
    end
  end
  redis.call('HSET', key, 'grants', write_grants(grants))
end

-- End leases that are over: slots come back; what was charged stays or goes as each one says.
local function sweep(key, leases, now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, SWEPT)) do
    local text = redis.call('HGET', key, 'o/' .. id)
    local rule, charges = read_open(text or '')
    local rest = {}
    if rule == 'release' then repay(key, charges) end
    for _, c in ipairs(charges) do
      if c.kind ~= 'slots' then rest[#rest + 1] = c end
      if c.kind == 'slots' or rule == 'release' then
        local stored = redis.call('HGET', key, c.field)
        local used, since, told, carried = 0, 0, 0, 0
        if stored then used, since, told, carried = unpack_numbers('<dddd', stored) end
        if stored and (c.kind ~= 'quota' or since == c.since) then
          redis.call('HSET', key, c.field, pack_numbers('<dddd', max(0, used - c.cost), since, told, carried))
        end
      end
    end
    if rule == 'charge' and #rest > 0 then
      redis.call('HSET', key, 'o/' .. id, write_open(rule, rest))
    else
      redis.call('HDEL', key, 'o/' .. id)
    end
    redis.call('ZREM', leases, id)
  end
end
