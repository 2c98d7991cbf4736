-- Takes one token per request from Redis over a pooled connection; answers 429, or nginx forwards.
local redis = require "nginx.redis"

local key = ngx.var.http_x_api_key
if not key then
    return ngx.exit(401)
end
local connection = redis:new()
connection:set_timeout(50)
local ok = connection:connect("127.0.0.1", REDIS_PORT)
if not ok then
    return ngx.exit(503)
end
local bucket = "bucket:" .. key
local allowed, problem = connection:evalsha(SCRIPT_SHA, 1, bucket, 500000, 1000000)
if not allowed and problem and problem:find("NOSCRIPT", 1, true) then
    allowed, problem = connection:eval(SCRIPT, 1, bucket, 500000, 1000000)
end
if not allowed then
    ngx.log(ngx.ERR, "redis: ", problem)
    return ngx.exit(503)
end
connection:set_keepalive(10000, 128)
if allowed == 0 then
    ngx.header["Retry-After"] = "1"
    return ngx.exit(429)
end
