-- Asks the decide port as a gateway does. DECIDE_MODE: "alone" asks with settle false; "settled"
-- reports each allowed request; "plain" asks by /v1/forward-auth.
local MODE = os.getenv("DECIDE_MODE")
local KEY, TOKEN = os.getenv("DECIDE_KEY"), os.getenv("DECIDE_TOKEN")
local ITEMS = 1000
local open, questions, at = {}, {}, 0

local function post(path, body)
    return wrk.format("POST", path, {
        ["Content-Type"] = "application/json", ["X-Decide-Token"] = TOKEN,
    }, body)
end

local function question(n)
    local path = "/v1/items/" .. n
    if MODE == "plain" then
        return wrk.format("GET", "/v1/forward-auth", {
            ["X-Api-Key"] = KEY, ["X-Forwarded-Method"] = "GET", ["X-Forwarded-Uri"] = path,
            ["X-Forwarded-For"] = "192.0.2.1", ["X-Decide-Token"] = TOKEN,
        })
    end
    return post("/v1/decide", string.format(
        '{"method":"GET","path":"%s","headers":{"X-Api-Key":"%s","Accept":"*/*","User-Agent":'
        .. '"wrk"},"address":"192.0.2.1","settle":%s}', path, KEY, tostring(MODE == "settled")))
end

function init()
    for n = 1, ITEMS do
        questions[n] = question(n)
    end
end

function request()
    local id = table.remove(open)
    if id then
        return post("/v1/settle", '{"id":"' .. id .. '","status":200,"latency_ms":3}')
    end
    at = at % ITEMS + 1
    return questions[at]
end

if MODE == "settled" then
    function response(_, _, body)
        local id = body:match('"decision":"allow","id":"([^"]+)"')
        if id then
            open[#open + 1] = id
        end
    end
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "bad_status": %d, "broken": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.status, e.connect + e.read + e.write + e.timeout))
end
