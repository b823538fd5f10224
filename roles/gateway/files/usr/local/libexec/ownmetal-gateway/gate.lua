-- Copyright: (c) 2026, the ownmetal.codex authors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- Who may ask, which model a body asks for, and what waits while a server restarts. Runs inside nginx.

local cjson = require "cjson.safe"
local ffi = require "ffi"

-- of the library that nginx has loaded for TLS; the Lua module itself brings no SHA-256
ffi.cdef "unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md);"

local M = {}
local state, loaded

local function digest(text)
  local out = ffi.new("unsigned char[32]")
  ffi.C.SHA256(text, #text, out)
  return (ffi.string(out, 32):gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end

local function read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local text = file:read("*a")
  file:close()
  return text
end

-- Which addresses of an upstream take requests: nginx's own file says so, and the drain program changes that one alone.
local function open_addresses(conf)
  local open, upstream = {}, nil
  for line in conf:gmatch("[^\n]+") do
    upstream = line:match("^ *upstream (%S+) {$") or upstream
    local address, how = line:match("^ *server (%S+)([^;]*);")
    if address and upstream then open[upstream .. " " .. address] = not how:find(" down", 1, true) end
  end
  return open
end

-- once for each start and reload: a worker of before goes on with what it had
function M.load(path, conf)
  local text = assert(read(path))
  state, loaded = assert(cjson.decode(text)), digest(text)
  local open = open_addresses(assert(read(conf)))
  for _, model in pairs(state.models) do
    local servers = {}
    for _, address in ipairs(model.servers) do
      if open[model.upstream .. " " .. address] then servers[#servers + 1] = address end
    end
    model.servers = servers
  end
end

local function refuse(status, kind, code, message, after)
  ngx.status = status
  ngx.header.content_type = "application/json"
  if after then ngx.header["Retry-After"] = after end
  if status == 401 then ngx.header["WWW-Authenticate"] = ngx.ctx.challenge or "Bearer" end
  ngx.say(cjson.encode({ error = { message = message, type = kind, code = code } }))
  return ngx.exit(status)
end

local function key_of_request()
  local header = ngx.var.http_authorization
  local word = type(header) == "string" and header:match("^[Bb]earer +(%S+)$")
  if not word and ngx.ctx.challenge and type(header) == "string" then
    local pair = ngx.decode_base64(header:match("^[Bb]asic +(%S+)$") or "")
    word = pair and pair:match("^[^:]*:(%S+)$")
  end
  return word and state.keys[digest(word)]
end

local function is_given(value)
  return value ~= nil and value ~= cjson.null
end

-- before the limits, which count by key; the body is not read yet
function M.authenticate()
  local key = key_of_request()
  if not key then
    return refuse(401, "invalid_request_error", "invalid_api_key", "unknown key")
  end
  ngx.var.gateway_key, ngx.var.gateway_team = key.key, key.team -- the log has who came with an expired one, too
  if is_given(key.expires) and ngx.time() >= key.expires then
    return refuse(401, "invalid_request_error", "expired_api_key", "this key has expired: ask for a new one")
  end
  ngx.ctx.key, ngx.var.gateway_class = key, key.class
end

-- For /setup alone: a browser cannot send a bearer key by itself, so the key is the password of any user name there.
function M.authenticate_page()
  ngx.ctx.challenge = 'Basic realm="your key is the password", charset="UTF-8"'
  return M.authenticate()
end

local function may_use(key, name)
  if not is_given(key.models) then return true end
  for _, allowed in ipairs(key.models) do
    if allowed == name then return true end
  end
  return false
end

local function body_of_request()
  -- a body without a length is an error of this Lua module with HTTP/2
  if not pcall(ngx.req.read_body) then
    return refuse(411, "invalid_request_error", "length_required", "send the body with its length")
  end
  local text = ngx.req.get_body_data()
  if not text then
    local file = ngx.req.get_body_file()
    text = file and read(file)
  end
  -- read as vLLM reads it: the last of two equal names wins, escapes count
  local body = text and cjson.decode(text)
  if type(body) ~= "table" then
    return refuse(400, "invalid_request_error", "invalid_json", "the body is no JSON object")
  end
  return body, #text
end

-- requests of one conversation go to one server, whose prefix cache has its beginning
local function affinity(body)
  if type(body.prompt_cache_key) == "string" then return body.prompt_cache_key end
  return ngx.var.http_session_id or (ngx.var.gateway_key .. ngx.var.remote_addr)
end

local LARGE_BYTES = 1048576
function M.route()
  local body, bytes = body_of_request()
  local name, conversation = body.model, affinity(body)
  if bytes > LARGE_BYTES then
    body = nil -- its tables can have thirty times its size: they go now, not when Lua would come round to it
    collectgarbage()
  end
  if type(name) ~= "string" then
    return refuse(400, "invalid_request_error", "model_required", "the body has to name a model")
  end
  local model = state.models[name]
  if not model or not may_use(ngx.ctx.key, name) then
    return refuse(404, "invalid_request_error", "model_not_found", "there is no such model for this key: see /v1/models")
  end
  ngx.var.gateway_model, ngx.var.gateway_upstream = name, model.upstream
  ngx.var.gateway_authorization, ngx.var.gateway_affinity = model.authorizations[1], conversation
end

-- A server answered 401: while the servers' own key is rotated some have the new one, and some the one before.
function M.other_key()
  local model = state.models[ngx.var.gateway_model]
  local other = model.authorizations[2]
  if not other or ngx.var.gateway_other_key ~= "" then
    return refuse(502, "server_error", "bad_gateway", "the model's server refuses the gateway's own key: run playbooks/gateways.yml")
  end
  ngx.var.gateway_other_key = "asked"
  ngx.var.gateway_authorization = other
end

-- GET from a server; returns the body of an answer of 200, or nothing
local function get(address, path, header)
  local host, port = address:match("^(.+):(%d+)$") -- a socket takes IPv6 in brackets
  local socket = ngx.socket.tcp()
  socket:settimeouts(500, 500, 1000)
  if not socket:connect(host, tonumber(port)) then return nil end
  -- 1.0: the answer comes without pieces, and ends with the connection
  socket:send("GET " .. path .. " HTTP/1.0\r\nHost: " .. host .. "\r\n" .. (header or "") .. "\r\n")
  local text = socket:receive("*a")
  socket:close()
  return text and text:match("^HTTP/1%.%d 200.-\r\n\r\n(.*)$")
end

local function length_of(address, name, authorizations)
  for _, authorization in ipairs(authorizations) do
    local text = get(address, "/v1/models", "Authorization: " .. authorization .. "\r\n")
    local answer = text and cjson.decode(text)
    for _, row in ipairs(type(answer) == "table" and answer.data or {}) do
      if row.id == name then return tonumber(row.max_model_len) end
    end
  end
end

-- What the servers themselves say, the least where they differ; asked at most every LENGTHS_SECONDS. Where none answers: the last that
-- one said, and before that what the inventory has.
local LENGTHS_SECONDS = 30
local lengths = {}
local function length(name, model)
  local known = lengths[name]
  if not known or ngx.now() >= known.until_ then
    local least
    for _, address in ipairs(model.servers) do
      local found = length_of(address, name, model.authorizations)
      least = found and math.min(least or found, found) or least
    end
    known = { until_ = ngx.now() + LENGTHS_SECONDS, value = least or known and known.value }
    lengths[name] = known
  end
  return known.value or is_given(model.max_model_len) and model.max_model_len or nil
end

function M.models()
  local rows = {}
  for name, model in pairs(state.models) do
    if may_use(ngx.ctx.key, name) then
      rows[#rows + 1] = { id = name, object = "model", created = 0, owned_by = "vllm", max_model_len = length(name, model) }
    end
  end
  table.sort(rows, function(one, other) return one.id < other.id end)
  ngx.header.content_type = "application/json"
  -- cjson writes an empty table as {}
  ngx.say('{"object":"list","data":', #rows > 0 and cjson.encode(rows) or "[]", "}")
end

-- No server took the request, and nothing of an answer has been sent: wait for one, then ask again. A server can be well and still not
-- take it. nginx follows ten turns in all, one may go to M.other_key, and more would be its own page of an error 500: so the pauses
-- share what is left of the time, and the last of our turns says no.
local TURNS = 8
function M.hold()
  local now = ngx.now()
  if now - ngx.req.start_time() >= state.stream_timeout then
    return refuse(504, "server_error", "timeout", "the model did not answer in time")
  end
  local turn = (tonumber(ngx.var.gateway_turn) or 0) + 1
  local finish = tonumber(ngx.var.gateway_held) or now + state.hold
  ngx.var.gateway_held, ngx.var.gateway_turn = finish, turn
  -- the second comes soon: most often a server has just come back
  if turn == 2 then ngx.sleep(math.min(1, math.max(0, finish - now))) end
  if turn > 2 then ngx.sleep(math.max(0, finish - now) / (TURNS + 1 - math.min(turn, TURNS))) end
  while turn < TURNS and ngx.now() < finish do
    for _, address in ipairs(state.models[ngx.var.gateway_model].servers) do
      if get(address, "/health") then return end
    end
    ngx.sleep(0.5)
    ngx.update_time()
  end
  return refuse(503, "server_error", "model_unavailable", "no server of this model answers", 5)
end

function M.health()
  ngx.header.content_type = "application/json"
  ngx.say(cjson.encode({ status = "ok", config = loaded }))
end

return M
