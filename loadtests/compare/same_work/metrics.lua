-- Requests by outcome, and their durations, as the sidecar counts them, in tables of the worker.
local ffi = require "ffi"

local BOUNDS = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, math.huge,
}
local TOGETHER = 4096 -- durations per batch into buckets; the sidecar's batches have 256
local metrics = { requests = {}, spans = {} }

-- Returns a function that records a duration in seconds.
local function histogram(name)
    local spans, waiting = ffi.new("double[?]", TOGETHER), 0
    local counts = { total = 0 }
    for n = 1, #BOUNDS do counts[n] = 0 end
    metrics.spans[name] = counts

    function counts.gather()
        for at = 0, waiting - 1 do
            local seconds, n = spans[at], 1
            while seconds > BOUNDS[n] do n = n + 1 end
            counts[n] = counts[n] + 1
            counts.total = counts.total + seconds
        end
        waiting = 0
    end

    return function(seconds)
        spans[waiting] = seconds
        waiting = waiting + 1
        if waiting == TOGETHER then counts.gather() end
    end
end

metrics.added = histogram("added")
metrics.store = histogram("store")
metrics.upstream = histogram("upstream")

-- Counts one request of a route, plan and class, which are `labels`.
function metrics.count(labels, outcome)
    local counts = metrics.requests[labels]
    if not counts then
        counts = {}
        metrics.requests[labels] = counts
    end
    counts[outcome] = (counts[outcome] or 0) + 1
end

-- All metrics in the text format of Prometheus.
function metrics.text()
    local out = {}
    for labels, counts in pairs(metrics.requests) do
        for outcome, count in pairs(counts) do
            out[#out + 1] = ('requests_total{%s,outcome="%s"} %d\n'):format(labels, outcome, count)
        end
    end
    for name, counts in pairs(metrics.spans) do
        counts.gather()
        local running = 0
        for n, bound in ipairs(BOUNDS) do
            running = running + counts[n]
            local le = bound == math.huge and "+Inf" or tostring(bound)
            out[#out + 1] = ('%s_seconds_bucket{le="%s"} %d\n'):format(name, le, running)
        end
        out[#out + 1] = ("%s_seconds_sum %.6f\n"):format(name, counts.total)
        out[#out + 1] = ("%s_seconds_count %d\n"):format(name, running)
    end
    return table.concat(out)
end

return metrics
