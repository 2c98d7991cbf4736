-- Quota Sidecar for HAProxy: asks /v1/forward-auth before each request. It knows no plan.

local SOCKET = "unix@/run/sidecar/decide.sock"
local TOKEN = nil -- with SOCKET = "10.0.0.5:9400": a token of --decide-token-file
local TIMEOUT_MS = 1000

local IDENTITY = { "x-account-id", "x-plan", "x-key-id", "x-request-id" }
local RESPONSE = { "x-request-id", "ratelimit-policy", "ratelimit" }
-- Not asked with: fields of the connection, and those that this file sets.
local DROPPED = {
    ["connection"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
    ["expect"] = true, ["upgrade"] = true, ["te"] = true, ["trailer"] = true, ["host"] = true,
    ["keep-alive"] = true, ["proxy-connection"] = true, ["forwarded"] = true, ["via"] = true,
    ["x-forwarded-method"] = true, ["x-forwarded-uri"] = true, ["x-forwarded-for"] = true,
    ["x-original-method"] = true, ["x-original-uri"] = true, ["x-decide-token"] = true,
}
-- HAProxy writes these of a refusal itself.
local FRAMING = { ["content-length"] = true, ["transfer-encoding"] = true, ["connection"] = true }
local UNAVAILABLE = '{"type":"https://iana.org/assignments/http-problem-types#'
    .. 'temporary-reduced-capacity","title":"The request cannot be checked","status":503,'
    .. '"detail":"The limits of this request cannot be checked right now, so it was not '
    .. 'forwarded. Nothing was charged.","how_to_fix":[{"action":"wait","seconds":1}]}'

local function question(txn)
    local headers = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        if not DROPPED[name] then
            local list = {}
            for at = 0, #values do -- HAProxy counts from 0
                list[#list + 1] = values[at]
            end
            headers[name] = list
        end
    end
    headers["host"] = { "sidecar" }
    headers["x-forwarded-method"] = { txn.sf:method() }
    headers["x-forwarded-uri"] = { txn.sf:pathq() }
    headers["x-forwarded-for"] = { txn.sf:src() }
    if TOKEN then
        headers["x-decide-token"] = { TOKEN }
    end
    return headers
end

local function first(headers, name)
    local values = headers[name]
    return values and values[0]
end

local function reply(txn, status, headers, body)
    local answer = txn:reply({ status = status, body = body })
    for name, values in pairs(headers) do
        if not FRAMING[name] then
            for at = 0, #values do
                answer:add_header(name, values[at])
            end
        end
    end
    txn:done(answer)
end

local function decide(txn)
    local headers = question(txn)
    for _, name in ipairs(IDENTITY) do
        txn.http:req_del_header(name)
    end
    local response = core.httpclient():get({
        url = "http://127.0.0.1/v1/forward-auth",
        headers = headers,
        dst = SOCKET,
        timeout = TIMEOUT_MS,
    })
    local status = response and response.status or 0
    if status == 200 then
        for _, name in ipairs(IDENTITY) do
            txn.http:req_set_header(name, first(response.headers, name) or "")
        end
        for _, name in ipairs(RESPONSE) do
            txn:set_var("txn." .. name:gsub("-", "_"), first(response.headers, name) or "")
        end
        return
    end
    -- A refusal, also one with 503, has the request's id. HAProxy's own 503 has none, and an error
    -- of the decide port says so: from 500, it is not a decision.
    local found = response and response.headers or {}
    local failed = status == 0 or status >= 500
        and (first(found, "x-decide-error") or not first(found, "x-request-id"))
    if not failed and status >= 400 then
        reply(txn, status, response.headers, response.body)
        return
    end
    if not txn:get_var("txn.quota_open") then
        reply(txn, 503, {
            ["content-type"] = { [0] = "application/problem+json" },
            ["retry-after"] = { [0] = "1" },
            ["cache-control"] = { [0] = "no-store" },
        }, UNAVAILABLE)
    end
end

local function fields(txn)
    for _, name in ipairs(RESPONSE) do
        local value = txn:get_var("txn." .. name:gsub("-", "_"))
        if value and value ~= "" then
            txn.http:res_set_header(name, value)
        end
    end
end

core.register_action("quota_decide", { "http-req" }, decide, 0)
core.register_action("quota_fields", { "http-res" }, fields, 0)
