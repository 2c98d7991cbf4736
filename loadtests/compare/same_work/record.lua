-- One event per request, for billing: lines of JSON, numbered and chained by SHA-256. Each write has
-- the events of 20 ms.
local ffi = require "ffi"
local C = ffi.C
local floor = math.floor

ffi.cdef [[
int SHA256_Init(void *context);
int SHA256_Update(void *context, const void *bytes, size_t length);
int SHA256_Final(unsigned char *digest, void *context);
int open(const char *path, int flags, int mode);
ssize_t write(int file, const void *bytes, size_t length);
]]
local APPEND, MODE_0644 = 1025 + 64, 420 -- O_WRONLY | O_APPEND | O_CREAT, 0644
local MOST = 4194304 -- unwritten bytes, at most
local context = ffi.new("uint64_t[32]") -- larger than a SHA256_CTX
local digest = ffi.new("unsigned char[32]")
local prev = ffi.new("uint16_t[32]") -- of the previous line, in hex
local HEX = ffi.new("uint16_t[256]") -- the two digits of each byte
for n = 0, 255 do
    local high, low = ("%02x"):format(n):byte(1, 2)
    HEX[n] = high + low * 256
end
local NUMBER, THREE = {}, {} -- as text; THREE has leading zeros
for n = 0, 999 do NUMBER[n], THREE[n] = ("%d"):format(n), ("%03d"):format(n) end

local record = {}
local lines = require("string.buffer").new(MOST + 65536)
local file, head, seq, thousands = -1, "", 0, ""

local function sha256(bytes, length)
    C.SHA256_Init(context)
    C.SHA256_Update(context, bytes, length)
    C.SHA256_Final(digest, context)
end

-- The SHA-256 of a text, as 32 bytes.
function record.fingerprint(text)
    sha256(text, #text)
    return ffi.string(digest, 32)
end

-- Without fdatasync, which the sidecar does: here it would delay all requests.
local function flush()
    local at, left = lines:ref()
    while left > 0 do
        local wrote = tonumber(C.write(file, at, left))
        if wrote < 0 then return ngx.log(ngx.ERR, "the events cannot be written") end
        at, left = at + wrote, left - wrote
    end
    lines:reset()
end

-- Once per worker.
function record.start(path, spool)
    file = C.open(path, APPEND, ffi.cast("int", MODE_0644))
    head = '{"spool":"' .. spool .. '","seq":'
    ffi.fill(prev, 64, 48) -- zeros: no previous line
    ngx.timer.every(0.02, flush)
end

-- Appends the event of a request: `form` is its text in seven parts, around the values.
function record.append(form, id, time, status, latency_ms, bytes_in, bytes_out)
    seq = seq + 1
    local rest = seq % 1000
    if rest == 0 then thousands = ("%d"):format(floor(seq / 1000)) end
    local from = #lines
    lines:put(head, thousands, seq < 1000 and NUMBER[rest] or THREE[rest], ',"prev":"')
    lines:putcdata(prev, 64)
    lines:put(
        form[1], id, form[2], time, form[3], NUMBER[status], form[4],
        NUMBER[latency_ms] or ("%d"):format(latency_ms), form[5], bytes_in, form[6], bytes_out,
        form[7])
    local bytes, length = lines:ref()
    sha256(bytes + from, length - from)
    for n = 0, 31 do prev[n] = HEX[digest[n]] end
    lines:put("\n")
    if length > MOST then flush() end
end

return record
