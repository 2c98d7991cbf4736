-- A stand-in for the parts of Kong's PDK that plugins/kong uses, on nginx's Lua module, as
-- https://docs.konghq.com/gateway/latest/plugin-development/pdk/ describes them.

local _M = {}

package.preload["kong.db.schema.typedefs"] = function()
    return { protocols_http = { type = "set" }, no_consumer = { type = "foreign" } }
end

local function refuse_unknown(name)
    return setmetatable({}, {
        __index = function(_, key)
            error("the stand-in has no kong." .. name .. "." .. key)
        end,
    })
end

local function part(name, functions)
    local found = refuse_unknown(name)
    for key, value in pairs(functions) do
        rawset(found, key, value)
    end
    return found
end

-- The phases that Kong allows for a function.
local function only_in(phases, run)
    return function(...)
        assert(phases:find(ngx.get_phase(), 1, true), "not in the phase " .. ngx.get_phase())
        return run(...)
    end
end

function _M.kong()
    return part("", {
        log = part("log", { err = function(...) ngx.log(ngx.ERR, ...) end }),
        client = part("client", {
            get_forwarded_ip = function() return ngx.var.remote_addr end,
        }),
        ctx = setmetatable({}, {
            __index = function(_, key)
                assert(key == "plugin")
                ngx.ctx.of_plugin = ngx.ctx.of_plugin or {}
                return ngx.ctx.of_plugin
            end,
        }),
        request = part("request", {
            get_method = ngx.req.get_method,
            get_path = function() return ngx.var.uri end,
            get_raw_path = function() return (ngx.var.request_uri:gsub("%?.*", "")) end,
            get_raw_query = function() return ngx.var.args or "" end,
            get_raw_body = only_in("access", function()
                ngx.req.read_body()
                return ngx.req.get_body_data()
            end),
        }),
        service = part("service", {
            request = part("service.request", {
                set_header = only_in("access", ngx.req.set_header),
                clear_header = only_in("access", ngx.req.clear_header),
            }),
        }),
        response = part("response", {
            set_header = only_in("access header_filter", function(name, value)
                ngx.header[name] = value
            end),
            exit = only_in("access", function(status, body, headers)
                ngx.status = status
                for name, value in pairs(headers) do
                    ngx.header[name] = value
                end
                ngx.header["Content-Length"] = #body
                ngx.print(body)
                return ngx.exit(status)
            end),
        }),
    })
end

-- A configuration with the defaults of the schema, as Kong's Admin API makes it. An unknown field
-- or a value of a wrong type or size is an error.
function _M.configured(given)
    local fields = {}
    for _, field in ipairs(require("kong.plugins.quota-sidecar.schema").fields) do
        for _, one in ipairs(field.config and field.config.fields or {}) do
            local name, rule = next(one)
            fields[name] = rule
        end
    end
    local kinds = { integer = "number", array = "table" }
    local conf = {}
    for name, rule in pairs(fields) do
        conf[name] = given[name]
        if conf[name] == nil then
            conf[name] = rule.default
        end
        assert(conf[name] ~= nil or not rule.required, name)
        if conf[name] ~= nil then
            assert(type(conf[name]) == (kinds[rule.type] or rule.type), name)
        end
        if rule.between then
            local value = conf[name] or rule.between[1]
            assert(rule.between[1] <= value and value <= rule.between[2], name)
        end
    end
    for name in pairs(given) do
        assert(fields[name], name)
    end
    return conf
end

return _M
