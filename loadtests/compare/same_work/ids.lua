-- Request ids and times: UUIDv7 with digits from a pool of random bytes, times in milliseconds.
local ffi = require "ffi"
local floor, format = math.floor, string.format

ffi.cdef [[
struct same_work_time { long seconds; long nanoseconds; };
int clock_gettime(int clock, struct same_work_time *now);
int RAND_bytes(unsigned char *bytes, int count);
]]
local MONOTONIC, POOL, TAKEN = 1, 9000, 9 -- TAKEN: random bytes of an id, 72 bits as the sidecar's
local now = ffi.new("struct same_work_time")
local pool, used = ffi.new("unsigned char[?]", POOL), POOL
local HEX = ffi.new("unsigned char[512]") -- the two digits of each byte
for n = 0, 255 do
    HEX[2 * n], HEX[2 * n + 1] = format("%02x", n):byte(1, 2)
end
-- Overwritten for each request; the 16 digits from 19 on and from 36 on are the same.
local id = ffi.new("char[37]", "........-....-7...-8...-............")
local trace = ffi.new("char[56]", "00-............7...8...............-8...............-01")
local millisecond, second, second_text, time = -1, -1, "", ""

local ids = {}

-- Seconds of a clock that never jumps.
function ids.clock()
    ffi.C.clock_gettime(MONOTONIC, now)
    return tonumber(now.seconds) + tonumber(now.nanoseconds) * 1e-9
end

local function turn(ms)
    millisecond = ms
    local s = floor(ms / 1000)
    if s ~= second then second, second_text = s, os.date("!%Y-%m-%dT%H:%M:%S.", s) end
    time = second_text .. format("%03dZ", ms - s * 1000)
    local digits = format("%04x%08x", floor(ms / 4294967296), ms % 4294967296)
    ffi.copy(trace + 3, digits, 12)
    ffi.copy(id, digits, 8)
    ffi.copy(id + 9, trace + 11, 4)
end

-- A request's id, a W3C traceparent with it, and the time.
function ids.new()
    local ms = floor(ngx.now() * 1000 + 0.5)
    if ms ~= millisecond then turn(ms) end
    if used == POOL then
        ffi.C.RAND_bytes(pool, POOL)
        used = 0
    end
    local bytes = pool + used
    used = used + TAKEN
    local a, b, c = bytes[0] * 2, bytes[1] * 2, bytes[2] * 2
    trace[16], trace[17], trace[18] = HEX[a], HEX[a + 1], HEX[b]
    trace[20], trace[21], trace[22] = HEX[c], HEX[c + 1], HEX[b + 1]
    for n = 3, 8 do
        local d = bytes[n] * 2
        trace[17 + 2 * n], trace[18 + 2 * n] = HEX[d], HEX[d + 1]
    end
    ffi.copy(trace + 36, trace + 19, 16)
    ffi.copy(id + 15, trace + 16, 3)
    ffi.copy(id + 20, trace + 20, 3)
    ffi.copy(id + 24, trace + 23, 12)
    return ffi.string(id, 36), ffi.string(trace, 55), time
end

return ids
