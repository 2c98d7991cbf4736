-- The sidecar's work in nginx: identify, route, reserve, decide, forward; after the answer, count
-- and record. http.conf and location.conf use it.
local decide, ids, link, metrics, record =
    require "decide", require "ids", require "redis_link", require "metrics", require "record"
local clock, count = ids.clock, metrics.count
local floor, sub = math.floor, string.sub
local gate = {}
local tables -- made by same_work/__init__.py from the plan file
local UNKNOWN = 'route="-",class="-",plan="-"'

-- Once per worker.
function gate.start(made)
    tables = made
    link.port = made.redis
    link.start()
    record.start(made.events, made.spool)
end

local function refuse(status, labels, reason)
    count(labels, reason)
    return ngx.exit(status)
end

local function route_of(method, path)
    for n = 1, #tables.routes do
        local route = tables.routes[n]
        local wanted = route.method
        if not wanted or wanted == method or wanted == "GET" and method == "HEAD" then
            if sub(path, 1, #route.prefix) == route.prefix or path == route.itself then return n end
        end
    end
end

-- The client's trace, with this gateway as the parent.
local function continued(trace, received)
    local m = ngx.re.match(received, "^00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$", "jo")
    return m and "00-" .. m[1] .. sub(trace, 36, 53) .. m[2] or trace
end

-- The reply to a reservation, or nil.
local function reserve(call)
    local reply, why = link.ask(call.reserve)
    if why and sub(why, 1, 8) == "NOSCRIPT" then reply, why = link.ask(call.reserve_by_text) end
    if why or reply[1] < 0 then
        ngx.log(ngx.ERR, "redis: ", why or "another period has begun")
        return nil
    end
    return reply
end

function gate.access()
    local started, var = clock(), ngx.var
    local secret = var.http_x_api_key
    if not secret then return refuse(401, UNKNOWN, "no-credential") end
    local key = tables.keys[record.fingerprint(secret)]
    if not key then return refuse(401, UNKNOWN, "unknown-key") end
    local method = ngx.req.get_method()
    local number = route_of(method, var.uri)
    if not number then return refuse(403, UNKNOWN, "no-route") end
    local call = key.calls[number]
    local id, trace, time = ids.new()
    local asked = clock()
    local reply = reserve(call)
    local answered = clock()
    metrics.store(answered - asked)
    if not reply then return refuse(503, call.labels, "store-unavailable") end
    if reply[1] == 0 then
        local reason, wait = decide.refused(call.limits, reply)
        ngx.header["Retry-After"] = wait
        return refuse(429, call.labels, reason)
    end
    local limit, left, wait, reason, overage = decide.allowed(call.limits, reply)
    local header = ngx.header
    header["X-Request-Id"] = id
    header["RateLimit-Policy"] = call.policy
    header["RateLimit"] = limit.field .. left .. (wait and ";t=" .. wait or "")
    local received = var.http_traceparent
    if received then trace = continued(trace, received) end
    var.account, var.plan, var.key, var.id, var.trace = key.account, call.plan, key.id, id, trace
    local forwarded = clock()
    metrics.added(forwarded - started)
    ngx.ctx = {
        call = call, method = method, id = id, time = time, reason = reason, overage = overage,
        started = started, forwarded = forwarded,
    }
end

-- The text of an event around its values, cached per method.
local function form_of(call, method, outcome, overage)
    local name = outcome == "ok" and overage == 0 and method
    local form = name and call.forms[name]
    if form then return form end
    local e = call.event
    form = {
        e[1], e[2], e[3] .. method .. e[4],
        e[5] .. ("%.0f"):format(overage) .. e[6] .. outcome .. e[7], e[8], e[9], e[10],
    }
    if name then call.forms[name] = form end
    return form
end

local function outcome_of(status)
    if status == 499 then return "client_gone" end
    if status == 502 then return "upstream_refused" end
    return status == 504 and "upstream_timeout" or "ok"
end

function gate.log()
    local ctx = ngx.ctx
    local call = ctx.call
    if not call then return end -- refused, and already counted
    local now, status, var = clock(), ngx.status, ngx.var
    local outcome = status < 499 and "ok" or outcome_of(status)
    count(call.labels, outcome == "ok" and ctx.reason or outcome)
    metrics.upstream(now - ctx.forwarded)
    record.append(
        form_of(call, ctx.method, outcome, ctx.overage), ctx.id, ctx.time, status,
        floor((now - ctx.started) * 1000), var.content_length or "0", var.body_bytes_sent)
end

return gate
