-- Publishes one message in a topic with history: offset, stream, key and pub/sub at once.
--
-- KEYS  1 meta   2 stream   3 idempotency key, if the publisher gave one   4 that of the message
--       that must have been published before this one, if there is such a message
-- ARGV  1 channel   2 data   3 time of acceptance, ms   4 size of the history
--       5 ms that a message is kept   6 ms that the position is, after the last message
--       7 reign of this server, as the worker knows it   8 '1': it was read just now
--       9 an epoch that was never used   10 'PUBLISH' or 'SPUBLISH'
--       11 ms that the idempotency key is remembered   12 '0': a stream that is not here is not a
--       new one, but has yet to come   13 conflation key, if the publisher gave one
-- Returns {epoch, offset, 1 if the key was known}, or 'REIGN': the last message was published in
-- another reign; read the reign anew and say so. Or 'ORDER': the message before this one was not.
-- Or 'SEALED': the stream has moved to another shard. Or 'EMPTY': it has yet to come.
--
-- Meta is a hash: e epoch, o offset of the newest message, r reign it was published in, l lineage:
-- 'epoch:offset ...', up to where older epochs are part of this one, the newest first, with '!' where
-- something is missing since (see read.lua); x when the expiry of both keys was set last: doing it
-- each time would be a sixth of the work (measured); m: sealed.

local key = KEYS[3]
if key then
  local known = redis.call('GET', key)
  if known then
    local epoch, offset = string.match(known, '^(%S+) (%d+)$')
    if not epoch then
      return 1 -- published when the topic had no history yet; see publish_once.lua
    end
    return {epoch, tonumber(offset), 1}
  end
  if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 0 then
    return 'ORDER'
  end
end

local meta = redis.call('HMGET', KEYS[1], 'e', 'r', 'x', 'm')
local epoch = meta[1]
if meta[4] then
  return 'SEALED'
end
if not epoch then
  if ARGV[12] == '0' then
    return 'EMPTY'
  end
  epoch = ARGV[9]
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'e', epoch, 'o', 0, 'r', ARGV[7])
elseif meta[2] ~= ARGV[7] then
  if ARGV[8] ~= '1' then
    return 'REIGN'
  end
  -- The data may have stepped back since. What was given out beyond the newest offset that is
  -- left belongs to the old epoch alone.
  local old = redis.call('HMGET', KEYS[1], 'o', 'l')
  local lineage = epoch .. ':' .. old[1]
  local kept = 1
  for entry in string.gmatch(old[2] or '', '%S+') do
    if kept == 8 then break end
    lineage = lineage .. ' ' .. entry
    kept = kept + 1
  end
  epoch = ARGV[9]
  redis.call('HSET', KEYS[1], 'e', epoch, 'r', ARGV[7], 'l', lineage)
end

local offset = redis.call('HINCRBY', KEYS[1], 'o', 1)
local id, payload = offset .. '-' .. ARGV[3], ARGV[2]
local sign = '#'
if ARGV[13] then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], id, 'd', ARGV[2], 'k', ARGV[13])
  sign, payload = '%', ARGV[13] .. ' ' .. ARGV[2]
else
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], id, 'd', ARGV[2])
end
-- Clocks of workers differ, so the last time may be ahead.
local slack = math.ceil(tonumber(ARGV[5]) / 4)
if not meta[3] or math.abs(ARGV[3] - meta[3]) >= slack then
  redis.call('HSET', KEYS[1], 'x', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[5] + slack)
  redis.call('PEXPIRE', KEYS[1], ARGV[6] + slack)
end
if key then
  redis.call('SET', key, epoch .. ' ' .. offset, 'PX', ARGV[11])
end
redis.call(ARGV[10], ARGV[1], sign .. offset .. ' ' .. ARGV[3] .. ' ' .. epoch .. ' ' .. payload)
return {epoch, offset, 0}
