#!lua flags=no-writes
-- Reads who the members of a topic are.
--
-- KEYS  1 leases   2 members; see presence.lua
-- ARGV  1 members that are wanted at most   2 'worker client', behind which they begin; '': at
--       the first
-- Returns {count of all members, {entry, ...}}, without those of workers whose lease has ended.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local count = redis.call('ZCARD', KEYS[2])
local gone = {}
local portion = 10000
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  count = count - redis.call('ZLEXCOUNT', KEYS[2], '[' .. dead .. ' ', '(' .. dead .. '!')
  gone[dead] = true
  portion = 100  -- what is read in vain at each of them
end

local wanted = tonumber(ARGV[1])
local page = {}
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2] .. ' \255'
while #page < wanted do
  local most = math.min(wanted - #page, portion)
  local entries = redis.call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, most)
  local behind
  for _, entry in ipairs(entries) do
    local worker = string.match(entry, '^%S+')
    if gone[worker] then
      behind = '[' .. worker .. '!'
      break
    end
    page[#page + 1] = entry
  end
  if not behind then
    if #entries < most then break end
    behind = '(' .. entries[#entries]
  end
  from = behind
end
return {count, page}
