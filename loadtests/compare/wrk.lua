-- Requests a thousand items in turn, so that a cache of the last one does not help.
-- Prints the result as one line of JSON. wrk counts a status of 400 and above as an error.
local ITEMS = 1000
local requests, at = {}, 0

init = function(args)
    local items = string.match(wrk.path, "^(/v1/items/)")
    for n = 1, items and ITEMS or 1 do
        requests[n] = wrk.format("GET", items and items .. n or wrk.path)
    end
end

request = function()
    at = at % #requests + 1
    return requests[at]
end

done = function(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "bad_status": %d, "broken": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.status, e.connect + e.read + e.write + e.timeout))
end
