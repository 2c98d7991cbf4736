-- The meaning of a reply of `reserve`, as in sidecar/core/decision.py, for rates and quotas of
-- accounts without grants.
local floor, ceil, max = math.floor, math.ceil, math.max
local MICRO = 1000000
local decide = {}

-- Microseconds until so many units fit into a bucket that holds `used` micro-units.
local function fits_in(limit, used, units)
    return ceil((used + (units - limit.units) * MICRO) * limit.per / limit.gain)
end

-- For an allowed request: the tightest limit, its units left, seconds until it has more (nil if it is
-- full), the reason, and the units beyond the plan's own.
function decide.allowed(limits, reply)
    local step = reply.count == 2 + 8 * #limits and 8 or 2
    local now, reason, overage = reply[2], "ok", 0
    local tightest, used_of_it, ends_of_it = nil, 0, 0
    local tightest_left, tightest_units = 1, 0 -- the smallest share left so far
    for n = 1, #limits do
        local limit = limits[n]
        local used, ends = reply[3 + (n - 1) * step], reply[4 + (n - 1) * step]
        local units, left, tighter = limit.units, nil, nil
        if limit.quota then
            if step == 8 then units = units + reply[6 + (n - 1) * step] end -- units carried over
            left = units - used
            if left < 0 then
                if limit.forced and used > limit.cap + units - limit.units then
                    reason = "critical"
                elseif reason == "ok" then
                    reason = "overage"
                end
                overage = max(overage, used - max(units, used - limit.cost))
                left = 0
            end
            tighter = left * tightest_units <= tightest_left * units
        else
            left = floor((units * MICRO - used) / MICRO)
            if left < 0 then
                if limit.forced then reason = "critical" end
                left = 0
            end
            tighter = left * tightest_units < tightest_left * units
        end
        if tighter then
            tightest, tightest_left, tightest_units = limit, left, units
            used_of_it, ends_of_it = used, ends
        end
    end
    local wait
    if tightest.quota then
        wait = ends_of_it - now
    elseif used_of_it > 0 then
        wait = fits_in(tightest, used_of_it, tightest_left + 1)
    end
    return tightest, tightest_left, wait and ceil(max(0, wait) / MICRO), reason, overage
end

-- For a refused request: the reason, and seconds until all limits that refuse allow it again.
function decide.refused(limits, reply)
    local step = reply.count == 2 + 8 * #limits and 8 or 2
    local reason, wait = "rate", 0
    for n = 1, #limits do
        local limit, used, ends = limits[n], reply[3 + (n - 1) * step], reply[4 + (n - 1) * step]
        if limit.quota and used + limit.cost > limit.cap then
            reason, wait = "quota", max(wait, ends - reply[2])
        elseif not limit.quota then
            wait = max(wait, fits_in(limit, used, limit.cost))
        end
    end
    return reason, ceil(wait / MICRO)
end

return decide
