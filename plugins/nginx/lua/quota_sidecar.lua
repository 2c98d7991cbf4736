-- Quota Sidecar for nginx and OpenResty: decide in the access phase, settle in the log phase.
-- It knows no plan: it copies header fields, as in plugins/CONTRACT.md. Needs lua-cjson.

local cjson = require "cjson.safe"

local _M = { version = "1" }

local MOST_FIELDS = 200
local MOST_STATES = 10000
local IDENTITY = { "X-Account-Id", "X-Plan", "X-Key-Id", "X-Request-Id" }
local UNAVAILABLE = cjson.encode({
    type = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
    title = "The request cannot be checked",
    status = 503,
    detail = "The limits of this request cannot be checked right now, so it was not forwarded. "
        .. "Nothing was charged.",
    how_to_fix = { { action = "wait", seconds = 1 } },
})
local MALFORMED = cjson.encode({
    type = "https://quota-sidecar.dev/problems/http-400",
    title = "Malformed request",
    status = 400,
    detail = "The request has a path or header field that cannot be checked, so it was not forwarded.",
    how_to_fix = { { action = "correct_request", what = "Send UTF-8 in all header fields." } },
})

local options = {
    address = "unix:/run/sidecar/decide.sock",
    port = nil, -- with a host in `address`
    token = nil, -- sent as X-Decide-Token
    connect_timeout_ms = 200,
    timeout_ms = 1000,
    pool = 64, -- connections kept per worker process
    idle_ms = 30000, -- below the sidecar's --idle-timeout-s
    open = false, -- let requests pass if the sidecar does not answer
    critical = {}, -- Lua patterns of paths that always pass then
    read_body = 0, -- bytes of a request body that are sent for costs in it
    keep_body = 262144, -- bytes of a response body that are sent for costs in it
    queue = 10000, -- reports that wait to be sent
    attempts = 3, -- to send a report
}

-- Reports of this worker process, the oldest first: queue[first .. last].
local queue, first, last = {}, 1, 0
local sending = false
local states, state_count = {}, 0 -- by request id: ngx.ctx does not survive error_page

_M.dropped = 0 -- reports that were given up; the sidecar settles those requests by its own rule

function _M.setup(given)
    for name, value in pairs(given) do
        options[name] = value
    end
end

-- HTTP

local function connect()
    local sock = ngx.socket.tcp()
    sock:settimeouts(options.connect_timeout_ms, options.timeout_ms, options.timeout_ms)
    local ok, err
    if options.port then
        ok, err = sock:connect(options.address, options.port)
    else
        ok, err = sock:connect(options.address)
    end
    return ok and sock, err
end

local function message(path, document)
    local token = options.token and ("X-Decide-Token: " .. options.token .. "\r\n") or ""
    return "POST " .. path .. " HTTP/1.1\r\nHost: sidecar\r\nContent-Type: application/json\r\n"
        .. token .. "Content-Length: " .. #document .. "\r\n\r\n" .. document
end

-- Returns status, body and whether the connection can be kept; or nil and an error.
local function receive(sock)
    local line, err = sock:receive("*l")
    local status = line and tonumber(line:match("^HTTP/1%.1 (%d%d%d)"))
    if not status then
        return nil, err or "invalid response"
    end
    local length, keep = 0, true
    while true do
        line, err = sock:receive("*l")
        if not line then
            return nil, err
        end
        if line == "" then
            break
        end
        local name, value = line:match("^([^:]+):%s*(.*)$")
        name = name and name:lower()
        if name == "content-length" then
            length = tonumber(value) or 0
        elseif name == "connection" and value:lower() == "close" then
            keep = false
        end
    end
    local body = ""
    if length > 0 then
        body, err = sock:receive(length)
        if not body then
            return nil, err
        end
    end
    return status, body, keep
end

local function ask(path, document)
    local sock, err = connect()
    if not sock then
        return nil, err
    end
    local _, failed = sock:send(message(path, document))
    if failed then
        return nil, failed
    end
    local status, body, keep = receive(sock)
    if not status then
        sock:close()
        return nil, body
    end
    if keep then
        sock:setkeepalive(options.idle_ms, options.pool)
    else
        sock:close()
    end
    return status, body
end

-- Settle

local function pop(count)
    for at = first, first + count - 1 do
        queue[at] = nil
    end
    first = first + count
end

-- Send the reports that wait, up to 50 at once over one connection. Returns whether all arrived.
local function send_reports()
    local count = math.min(50, last - first + 1)
    local sock = connect()
    local parts = {}
    for at = first, first + count - 1 do
        queue[at].attempts = queue[at].attempts + 1
        parts[#parts + 1] = message("/v1/settle", queue[at].document)
    end
    local answered = 0
    if sock and sock:send(table.concat(parts)) then
        while answered < count do
            local status, _, keep = receive(sock)
            if not status or status >= 500 then
                break
            end
            answered = answered + 1
            if not keep then
                break
            end
        end
        if answered == count then
            sock:setkeepalive(options.idle_ms, options.pool)
        else
            sock:close()
        end
    end
    pop(answered)
    while first <= last and queue[first].attempts >= options.attempts do
        _M.dropped = _M.dropped + 1
        pop(1)
    end
    return answered == count
end

local function run(premature)
    while first <= last and not premature do
        if not send_reports() then
            ngx.sleep(0.1)
        end
    end
    if premature then -- the worker process ends: one more attempt
        while first <= last and send_reports() do end
    end
    sending = false
end

function _M.report(document)
    if last - first + 1 >= options.queue then
        _M.dropped = _M.dropped + 1
        ngx.log(ngx.ERR, "quota sidecar: the queue of reports is full")
        pop(1)
    end
    last = last + 1
    queue[last] = { document = cjson.encode(document), attempts = 0 }
    if not sending then
        sending = ngx.timer.at(0, run) and true or false
    end
end

-- Decide

local function is_utf8(text)
    local _, _, err = ngx.re.find(text, "^", "u")
    return err == nil
end

-- The body of the request if it is small, and nil with `false` if there is one that is not sent.
local function request_body()
    local length = tonumber(ngx.var.content_length) or 0
    if ngx.var.http_transfer_encoding == nil and length == 0 then
        return nil, true
    end
    if options.read_body == 0 or length == 0 or length > options.read_body then
        return nil, false
    end
    ngx.req.read_body()
    local body = ngx.req.get_body_data()
    if not body or not is_utf8(body) then
        return nil, false
    end
    return body, true
end

function _M.decide()
    local headers, err = ngx.req.get_headers(MOST_FIELDS, true)
    if err == "truncated" then
        return { decision = "refuse", status = 400, body = MALFORMED,
                 headers = { ["Content-Type"] = "application/problem+json" } }
    end
    local body, complete = request_body()
    local document = cjson.encode({
        method = ngx.req.get_method(),
        path = ngx.var.request_uri:gsub("^https?://[^/]+", ""),
        headers = next(headers) and setmetatable(headers, nil) or nil,
        address = ngx.var.remote_addr:sub(1, 5) ~= "unix:" and ngx.var.remote_addr or nil,
        body = body,
        body_complete = complete,
    })
    local status, answer = ask("/v1/decide", document)
    if status == 200 then
        return cjson.decode(answer)
    end
    if status and status >= 400 and status < 500 then -- never open: the client could cause it
        ngx.log(ngx.ERR, "quota sidecar: ", status, " ", answer)
        return { decision = "refuse", status = 400, body = MALFORMED,
                 headers = { ["Content-Type"] = "application/problem+json" } }
    end
    ngx.log(ngx.ERR, "quota sidecar: no decision: ", status or answer)
    return nil
end

local function is_open()
    if options.open then
        return true
    end
    for _, pattern in ipairs(options.critical) do
        if ngx.var.uri:match(pattern) then
            return true
        end
    end
    return false
end

local function refuse(status, headers, body)
    ngx.status = status
    for name, value in pairs(headers) do
        ngx.header[name] = value
    end
    ngx.header["Content-Length"] = #body
    if ngx.req.get_method() ~= "HEAD" then
        ngx.print(body)
    end
    return ngx.exit(status)
end

local function wants(decision, what)
    for _, one in ipairs(decision.report or {}) do
        if one == what then
            return true
        end
    end
    return false
end

-- The phases

function _M.access()
    if ngx.is_subrequest or ngx.req.is_internal() then
        return
    end
    for _, name in ipairs(IDENTITY) do
        ngx.req.clear_header(name)
    end
    local decision = _M.decide()
    if not decision then
        if is_open() then
            return
        end
        return refuse(503, { ["Content-Type"] = "application/problem+json", ["Retry-After"] = "1",
                             ["Cache-Control"] = "no-store" }, UNAVAILABLE)
    end
    if decision.decision ~= "allow" then
        return refuse(decision.status, decision.headers, decision.body)
    end
    for name, value in pairs(decision.request_headers) do
        ngx.req.set_header(name, value)
    end
    local state = { decision = decision, started = ngx.now(), body = wants(decision, "body") }
    if state.body then
        ngx.req.clear_header("Accept-Encoding") -- the body is read, so it must not be encoded
        state.parts, state.first, state.last = {}, 1, 0
        state.size, state.complete = 0, false
    end
    ngx.ctx.quota = state
    if state_count < MOST_STATES then
        states[ngx.var.request_id] = state
        state_count = state_count + 1
    end
end

local function state_of()
    return ngx.ctx.quota or states[ngx.var.request_id]
end

function _M.header_filter()
    local state = state_of()
    if state then
        for name, value in pairs(state.decision.response_headers) do
            ngx.header[name] = value
        end
    end
end

-- Keep the beginning of the body; of an event stream the end, where its usage is.
function _M.body_filter()
    local state = state_of()
    if not (state and state.body) then
        return
    end
    local part = ngx.arg[1]
    state.complete = ngx.arg[2] or state.complete
    if part == "" then
        return
    end
    state.last = state.last + 1
    state.parts[state.last] = part
    state.size = state.size + #part
    if state.size <= options.keep_body then
        return
    end
    state.cut = true
    local stream = (ngx.header["Content-Type"] or ""):find("text/event-stream", 1, true)
    while state.size > options.keep_body do
        local at = stream and state.first or state.last
        state.size = state.size - #state.parts[at]
        state.parts[at] = nil
        if stream then
            state.first = state.first + 1
        else
            state.last = state.last - 1
        end
    end
    if not stream then
        state.body = false
    end
end

-- The last attempt of a variable such as $upstream_connect_time; nil for "-".
local function of_last_attempt(value)
    local found = value and value:match("([^,%s]+)$")
    return found ~= "-" and found or nil
end

local function outcome(status)
    if status == 499 then
        return "client_gone"
    end
    local answered = of_last_attempt(ngx.var.upstream_header_time)
    if answered or not ngx.var.upstream_status or (status ~= 502 and status ~= 504) then
        return "ok"
    end
    if status == 504 then
        return "upstream_timeout"
    end
    local connected = of_last_attempt(ngx.var.upstream_connect_time)
    return connected and "upstream_broken" or "upstream_refused"
end

function _M.log()
    local state = state_of()
    if states[ngx.var.request_id] then
        states[ngx.var.request_id] = nil
        state_count = state_count - 1
    end
    local id = state and state.decision.id
    if not id or id == cjson.null then
        return
    end
    local status = ngx.status > 0 and ngx.status or 499
    local report = {
        id = id,
        status = status,
        outcome = outcome(status),
        latency_ms = math.floor((ngx.now() - state.started) * 1000),
        bytes_in = tonumber(ngx.var.content_length) or 0,
        bytes_out = tonumber(ngx.var.body_bytes_sent) or 0,
        begun = (tonumber(ngx.var.bytes_sent) or 0) > 0,
    }
    if wants(state.decision, "headers") then
        local fields = {}
        for name, value in pairs(ngx.resp.get_headers(MOST_FIELDS - 1, true)) do
            fields[name] = value
        end
        report.headers = next(fields) and fields or nil
    end
    if state.parts then
        local body = table.concat(state.parts, "", state.first, state.last)
        if state.cut then -- begin with a whole event
            local _, stop = body:find("\r?\n\r?\n")
            body = stop and body:sub(stop + 1) or ""
        end
        report.body = is_utf8(body) and body or nil
        report.body_complete = state.complete and not (state.cut and not state.body)
    end
    _M.report(report)
end

return _M
