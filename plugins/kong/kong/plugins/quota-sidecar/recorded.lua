-- What is recorded of a response, for the report of its request.

local _M = {}

local MOST_FIELDS = 199

local function wants(decision, what)
    for _, one in ipairs(decision.report or {}) do
        if one == what then
            return true
        end
    end
    return false
end

function _M.is_utf8(text)
    local _, _, err = ngx.re.find(text, "^", "u")
    return err == nil
end

function _M.start(decision, keep_body)
    return {
        decision = decision,
        started = ngx.now(),
        body = keep_body > 0 and wants(decision, "body"),
        parts = {},
        size = 0,
        most = keep_body,
        complete = false,
        cut = false,
    }
end

-- Keep the beginning of the body; of an event stream the end, where its usage is.
function _M.add(state, part, is_last)
    state.complete = is_last or state.complete
    local stream = (ngx.header["Content-Type"] or ""):find("text/event-stream", 1, true)
    if part == nil or part == "" or (state.cut and not stream) then
        return
    end
    local parts = state.parts
    parts[#parts + 1] = part
    state.size = state.size + #part
    while state.size > state.most and #parts > 0 do
        state.cut = true
        state.size = state.size - #table.remove(parts, stream and 1 or #parts)
    end
    state.stream = stream ~= nil
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

local function body_of(state)
    local body = table.concat(state.parts)
    if state.stream and state.cut then -- begin with a whole event
        local _, stop = body:find("\r?\n\r?\n")
        body = stop and body:sub(stop + 1) or ""
    end
    if not _M.is_utf8(body) then
        return nil, false
    end
    return body, state.complete and (state.stream or not state.cut)
end

-- The report, as plugins/CONTRACT.md describes it.
function _M.report(state)
    local status = ngx.status > 0 and ngx.status or 499
    local report = {
        id = state.decision.id,
        status = status,
        outcome = outcome(status),
        latency_ms = math.floor((ngx.now() - state.started) * 1000),
        bytes_in = tonumber(ngx.var.content_length) or 0,
        bytes_out = tonumber(ngx.var.body_bytes_sent) or 0,
        begun = (tonumber(ngx.var.bytes_sent) or 0) > 0,
    }
    if wants(state.decision, "headers") then
        local fields = {}
        for name, value in pairs(ngx.resp.get_headers(MOST_FIELDS, true)) do
            fields[name] = value
        end
        report.headers = next(fields) and fields or nil
    end
    if state.body then
        report.body, report.body_complete = body_of(state)
    end
    return report
end

return _M
