local typedefs = require "kong.db.schema.typedefs"

local MS = { between = { 1, 3600000 } }

return {
    name = "quota-sidecar",
    fields = {
        { protocols = typedefs.protocols_http },
        { consumer = typedefs.no_consumer }, -- the sidecar knows the accounts
        { config = {
            type = "record",
            fields = {
                -- unix:PATH, or a host with a port
                { address = { type = "string", required = true,
                              default = "unix:/run/sidecar/decide.sock" } },
                { port = { type = "integer", between = { 1, 65535 } } },
                { token = { type = "string", referenceable = true, encrypted = true } },
                { connect_timeout_ms = { type = "integer", required = true, default = 200,
                                         between = MS.between } },
                { timeout_ms = { type = "integer", required = true, default = 1000,
                                 between = MS.between } },
                -- connections kept per worker process, and for how long
                { pool = { type = "integer", required = true, default = 64,
                           between = { 1, 10000 } } },
                { idle_ms = { type = "integer", required = true, default = 30000,
                              between = MS.between } },
                -- forward requests if the sidecar does not answer
                { open = { type = "boolean", required = true, default = false } },
                -- Lua patterns of paths that are forwarded then in any case
                { critical = { type = "array", required = true, default = {},
                               elements = { type = "string" } } },
                -- bytes that are sent for costs in bodies
                { read_body = { type = "integer", required = true, default = 65536,
                                between = { 0, 16777216 } } },
                { keep_body = { type = "integer", required = true, default = 262144,
                                between = { 0, 16777216 } } },
            },
        } },
    },
}
