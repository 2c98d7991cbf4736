package = "kong-plugin-quota-sidecar"
version = "0.1.0-1"
source = { url = "git+https://quota-sidecar.dev/quota-sidecar.git", dir = "quota-sidecar/plugins/kong" }
description = {
   summary = "Plans, limits and usage events of Quota Sidecar behind Kong",
   license = "Apache-2.0",
}
dependencies = { "lua ~> 5.1" }
build = {
   type = "builtin",
   modules = {
      ["kong.plugins.quota-sidecar.client"] = "kong/plugins/quota-sidecar/client.lua",
      ["kong.plugins.quota-sidecar.handler"] = "kong/plugins/quota-sidecar/handler.lua",
      ["kong.plugins.quota-sidecar.recorded"] = "kong/plugins/quota-sidecar/recorded.lua",
      ["kong.plugins.quota-sidecar.schema"] = "kong/plugins/quota-sidecar/schema.lua",
   },
}
