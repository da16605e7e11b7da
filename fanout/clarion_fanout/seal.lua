-- Ends a topic's stream on this shard, and hands out what another shard needs to go on with it.
--
-- KEYS  1 meta   2 stream
-- ARGV  1 channel   2 ms that the seal is kept where there was no stream
-- Returns {} if there was none, else {epoch, offset, lineage, {{id, {'d', data[, 'k', key]}}, ...}}. A second
-- time it says the same. Whoever follows the topic here is told by the payload '!'.

local meta = redis.call('HMGET', KEYS[1], 'e', 'o', 'l', 'm')
if not meta[4] then
  redis.call('HSET', KEYS[1], 'm', 1)
  redis.call('PUBLISH', ARGV[1], '!')
  if not meta[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
if not meta[1] then
  return {}
end
return {meta[1], tonumber(meta[2]), meta[3] or '', redis.call('XRANGE', KEYS[2], '-', '+')}
