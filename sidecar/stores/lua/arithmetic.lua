-- Shared by reserve and peek; put in front of them when they are loaded.
-- Mirrors sidecar/core/limits.py. All numbers are integers below 2^53, exact in a double.

local GROUP = 8        -- ARGV per claim
local FIRST = 2        -- where claims begin in ARGV

-- Redis time in microseconds.
local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- The states of all claims as they stand at `now`: used, since, end, fits; one HMGET for all.
-- Returns nil when `now` lies outside the bounds that the caller sent for a quota.
local function survey(key, now)
  local fields = {}
  for i = FIRST, #ARGV, GROUP do
    fields[#fields + 1] = ARGV[i + 1] .. ':u'
    fields[#fields + 1] = ARGV[i + 1] .. ':t'
  end
  local stored = redis.call('HMGET', key, unpack(fields))
  local claims, granted, n = {}, true, 0
  for i = FIRST, #ARGV, GROUP do
    n = n + 1
    local used = tonumber(stored[2 * n - 1] or 0)
    local since = tonumber(stored[2 * n] or 0)
    local cost = tonumber(ARGV[i + 2])
    local cap = tonumber(ARGV[i + 4])
    local a, b, c = tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7])
    local ends = 0
    if ARGV[i] == 'rate' then
      local at = math.max(now, since)
      if used <= 0 or at - since >= math.ceil(used * b / a) then
        used, since = 0, at
      else
        local gained = math.floor((at - since) * a / b)
        used = used - gained
        since = since + math.ceil(gained * b / a)
      end
    else
      if now < a or now >= c then return nil end
      local start = a
      ends = b
      if now >= b then start, ends = b, c end
      if start > since then used, since = 0, start end
    end
    if used + cost > cap and ARGV[i + 3] ~= '1' then granted = false end
    claims[n] = { fields[2 * n - 1], fields[2 * n], used, since, cost, ends }
  end
  return claims, granted
end
