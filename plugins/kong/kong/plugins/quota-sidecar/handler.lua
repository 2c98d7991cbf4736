-- Quota Sidecar for Kong: decide in the access phase, settle in the log phase.
-- It knows no plan: it copies header fields, as in plugins/CONTRACT.md.

local cjson = require "cjson.safe"
local client = require "kong.plugins.quota-sidecar.client"
local recorded = require "kong.plugins.quota-sidecar.recorded"

local MOST_FIELDS = 200
local IDENTITY = {
    ["x-account-id"] = true, ["x-plan"] = true, ["x-key-id"] = true, ["x-request-id"] = true,
}
local PROBLEM = "application/problem+json"
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
    detail = "The request has a path or header field that cannot be checked, so it was not "
        .. "forwarded.",
    how_to_fix = { { action = "correct_request", what = "Send UTF-8 in all header fields." } },
})

local QuotaSidecar = {
    VERSION = "0.1.0",
    PRIORITY = 945, -- just under acl (950), above rate-limiting (910)
}

local function malformed()
    return { decision = "refuse", status = 400, body = MALFORMED,
             headers = { ["Content-Type"] = PROBLEM } }
end

-- The body of the request if it is small; and whether nothing of it is missing.
local function request_body(conf)
    local length = tonumber(ngx.var.content_length) or 0
    if ngx.var.http_transfer_encoding == nil and length == 0 then
        return nil, true
    end
    if length == 0 or length > conf.read_body then
        return nil, false
    end
    local body = kong.request.get_raw_body()
    if not body or not recorded.is_utf8(body) then
        return nil, false
    end
    return body, true
end

-- A decision; nil if the sidecar has not decided.
local function decide(conf, headers)
    local query = kong.request.get_raw_query()
    local body, complete = request_body(conf)
    local document = cjson.encode({
        method = kong.request.get_method(),
        path = kong.request.get_raw_path() .. (query ~= "" and "?" .. query or ""),
        headers = next(headers) and headers or nil,
        address = kong.client.get_forwarded_ip(),
        body = body,
        body_complete = complete,
    })
    local status, answer = client.ask(conf, "/v1/decide", document)
    if status == 200 then
        return cjson.decode(answer)
    end
    if status and status >= 400 and status < 500 then -- never open: the client could cause it
        kong.log.err("the sidecar refused the question: ", status, " ", answer)
        return malformed()
    end
    kong.log.err("no decision: ", status or answer)
    return nil
end

local function is_open(conf)
    local path = kong.request.get_path()
    for _, pattern in ipairs(conf.critical) do
        if path:match(pattern) then
            return true
        end
    end
    return conf.open
end

function QuotaSidecar:access(conf)
    local headers, err = ngx.req.get_headers(MOST_FIELDS, true)
    local plain = {}
    for name, value in pairs(headers) do
        plain[name] = value
        -- Kong lets fields with "_" pass, and some servers read it as "-".
        if IDENTITY[(name:lower():gsub("_", "-"))] then
            kong.service.request.clear_header(name)
        end
    end
    local decision = malformed()
    if err ~= "truncated" then
        decision = decide(conf, plain)
    end
    if not decision then
        if is_open(conf) then
            return nil
        end
        return kong.response.exit(503, UNAVAILABLE, {
            ["Content-Type"] = PROBLEM, ["Retry-After"] = "1", ["Cache-Control"] = "no-store",
        })
    end
    if decision.decision ~= "allow" then
        return kong.response.exit(decision.status, decision.body, decision.headers)
    end
    for name, value in pairs(decision.request_headers) do
        kong.service.request.set_header(name, value)
    end
    local state = recorded.start(decision, conf.keep_body)
    if state.body then -- it is read, so it must not be encoded
        kong.service.request.clear_header("Accept-Encoding")
    end
    kong.ctx.plugin.state = state
    return nil
end

function QuotaSidecar:header_filter()
    local state = kong.ctx.plugin.state
    if state then
        for name, value in pairs(state.decision.response_headers) do
            kong.response.set_header(name, value)
        end
    end
end

function QuotaSidecar:body_filter()
    local state = kong.ctx.plugin.state
    if state and state.body then
        recorded.add(state, ngx.arg[1], ngx.arg[2])
    end
end

function QuotaSidecar:log(conf)
    local state = kong.ctx.plugin.state
    if state and state.decision.id and state.decision.id ~= cjson.null then
        client.settle(conf, cjson.encode(recorded.report(state)))
    end
end

return QuotaSidecar
