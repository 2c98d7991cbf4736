-- The decide port over kept connections, and the queue of reports of this worker process.

local _M = { dropped = 0 } -- reports that were given up

local MOST_REPORTS = 10000
local MOST_SENDERS = 4
local ATTEMPTS = 3
local PAUSE_S = 0.1
local MOST_BODY = 1048576

local queue, first, last = {}, 1, 0
local senders = 0

local function message(conf, path, document)
    local token = conf.token and ("X-Decide-Token: " .. conf.token .. "\r\n") or ""
    return "POST " .. path .. " HTTP/1.1\r\nHost: sidecar\r\nContent-Type: application/json\r\n"
        .. token .. "Content-Length: " .. #document .. "\r\n\r\n" .. document
end

-- Returns status, body and whether the connection can be kept; or nil and an error.
local function receive(sock)
    local line, err = sock:receive("*l")
    local status = line and tonumber(line:match("^HTTP/1%.1 (%d%d%d)"))
    if not status then
        return nil, err or "not an HTTP answer"
    end
    local length, keep = 0, true
    repeat
        line, err = sock:receive("*l")
        if not line then
            return nil, err
        end
        local name, value = line:match("^([^:]+):%s*(.*)$")
        name = name and name:lower()
        if name == "content-length" then
            length = tonumber(value) or 0
        elseif name == "connection" and value:lower() == "close" then
            keep = false
        end
    until line == ""
    if length > MOST_BODY then
        return nil, "the answer is too long"
    end
    local body = ""
    if length > 0 then
        body, err = sock:receive(length)
    end
    if not body then
        return nil, err
    end
    return status, body, keep
end

-- Ask once: a decision that may have arrived is not repeated. Returns status and body, or nil
-- and an error.
function _M.ask(conf, path, document)
    local sock = ngx.socket.tcp()
    sock:settimeouts(conf.connect_timeout_ms, conf.timeout_ms, conf.timeout_ms)
    local ok, err
    if conf.port then
        ok, err = sock:connect(conf.address, conf.port)
    else
        ok, err = sock:connect(conf.address)
    end
    if not ok then
        return nil, err
    end
    local sent
    sent, err = sock:send(message(conf, path, document))
    if not sent then
        sock:close()
        return nil, err
    end
    local status, body, keep = receive(sock)
    if status and keep then
        sock:setkeepalive(conf.idle_ms, conf.pool)
    else
        sock:close()
    end
    return status, body
end

local function drop(why)
    _M.dropped = _M.dropped + 1
    kong.log.err("a report was dropped: ", why)
end

local function pop()
    local one = queue[first]
    queue[first] = nil
    first = first + 1
    return one
end

local function send(one, is_last)
    local status, body
    for attempt = 1, ATTEMPTS do
        status, body = _M.ask(one.conf, "/v1/settle", one.document)
        if status and status < 500 then
            break
        end
        if is_last then -- the worker process ends: no time to wait
            break
        elseif attempt < ATTEMPTS then
            ngx.sleep(PAUSE_S)
        end
    end
    if status ~= 200 then
        drop((status or "no answer") .. " " .. (body or ""))
    end
end

local function run(premature)
    while first <= last do
        send(pop(), premature)
    end
    senders = senders - 1
end

-- Send a report, in the background.
function _M.settle(conf, document)
    if last - first + 1 >= MOST_REPORTS then
        pop()
        drop("the queue is full")
    end
    last = last + 1
    queue[last] = { conf = conf, document = document }
    if senders < MOST_SENDERS then
        local ok, err = ngx.timer.at(0, run)
        if ok then
            senders = senders + 1
        elseif senders == 0 then
            kong.log.err("no timer for reports: ", err)
        end
    end
end

return _M
