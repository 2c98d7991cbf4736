-- Shared by all scripts: it precedes their text when they are loaded.
-- All numbers are integers up to 2^53, which a double holds exactly. int() formats them, as tostring()
-- rounds to 14 digits.
local floor = math.floor

local function now_us() -- Redis time in microseconds
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function int(n) return string.format('%.0f', n) end

