#!lua flags=allow-oom
-- Works on an inbox for its owner: removes what is done, keeps the ownership, reads on.
--
-- KEYS  1 inbox   2 its owner
-- ARGV  1 the worker that asks   2 ms that it is the owner from now on; '0': it leaves
--       3 from where to read: '0-0' begins, and takes an inbox that nobody owns; what follows is
--       in the answer: first what was given out before and is not done, then '>', what was not
--       4 at most so many entries; '0': none   5 bytes of entries after which no more are read
--       6 bytes of an entry beyond which it is cut   7... ids of entries that are done
-- Returns {the owner, ms that it remains so or 0, entries in the inbox, ms of this server's clock,
--          where to read next, {{id, {field, value, ...}}, ...}}. An entry that was cut has three more
--          elements: its bytes, the name of its largest field, the bytes of that.
--
-- Only the owner reads, and it is one script: so nobody can be given an entry after another worker
-- has taken over. There is one consumer, whoever is the owner. Done entries are removed whoever asks:
-- they were published. A server whose memory is full must go on with this: it frees memory.

local inbox, owner = KEYS[1], KEYS[2]
local GROUP, CONSUMER = 'clarion', 'owner'
local CHUNK = 50 -- entries that are read at once, before anything is known of their size
local FIELDS, CUT = 32, 1024 -- of an entry that is cut: names and values, and bytes of each

if ARGV[7] then
  redis.call('XACK', inbox, GROUP, unpack(ARGV, 7))
  redis.call('XDEL', inbox, unpack(ARGV, 7))
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local cursor = ARGV[3]
local holder = redis.call('GET', owner) or ''
if ARGV[2] == '0' then
  if holder == ARGV[1] then
    redis.call('DEL', owner)
    holder = ''
  end
elseif holder == ARGV[1] or (holder == '' and cursor == '0-0') then
  redis.call('SET', owner, ARGV[1], 'PX', ARGV[2])
  holder = ARGV[1]
end
if holder ~= ARGV[1] then
  local left = math.max(0, redis.call('PTTL', owner))
  return {holder, left, redis.call('XLEN', inbox), now, cursor, {}}
end

-- The group begins with the first entry that is there, added before any worker was or not.
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if redis.call('EXISTS', inbox) == 0 then
      return false
    end
    if string.find(reply.err, 'NOGROUP', 1, true) then
      redis.call('XGROUP', 'CREATE', inbox, GROUP, '0')
    end
    reply = redis.call(...)
  end
  return reply
end

local function cut(entry, bytes)
  local fields, largest = {}, 2
  for place, text in ipairs(entry[2]) do
    if place <= FIELDS then
      fields[place] = string.sub(text, 1, CUT)
    end
    if place % 2 == 0 and #text > #entry[2][largest] then
      largest = place
    end
  end
  local name = string.sub(entry[2][largest - 1], 1, CUT)
  return {entry[1], fields, bytes, name, #entry[2][largest]}
end

local entries = {}
local left, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
while left > 0 and budget > 0 do
  local count = math.min(left, CHUNK)
  local part = {}
  local more
  if cursor == '>' then
    local reply =
      ask('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', count, 'STREAMS', inbox, '>')
    part = reply and reply[1][2] or part
    more = #part == count
  else
    local reply = ask('XAUTOCLAIM', inbox, GROUP, CONSUMER, 0, cursor, 'COUNT', count)
    part = reply and reply[2] or part
    cursor = reply and reply[1] or '0-0'
    more = cursor ~= '0-0'
    if not more then
      cursor = '>'
    end
  end
  for _, entry in ipairs(part) do
    local bytes = 0
    for _, text in ipairs(entry[2]) do
      bytes = bytes + #text
    end
    budget = budget - bytes
    if bytes > tonumber(ARGV[6]) then
      entry = cut(entry, bytes)
    end
    entries[#entries + 1] = entry
  end
  left = left - #part
  if not more then
    break
  end
end
return {holder, tonumber(ARGV[2]), redis.call('XLEN', inbox), now, cursor, entries}
