std = "ngx_lua"
globals = { "kong" }
self = false -- Kong's handlers are methods
max_line_length = 100
