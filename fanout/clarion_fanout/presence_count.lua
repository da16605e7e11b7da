#!lua flags=allow-oom
-- Counts the members of a topic where nothing else is wanted of them.
--
-- KEYS  1 leases   2 counts
-- ARGV  1 worker; '': somebody asks   2 how many members it has
--       3 ms of its lease   4 ms that everything is kept without another call
-- Returns the members of all workers, if somebody asks; otherwise those of dead workers that were
-- removed.
--
-- Leases is a sorted set: a worker, and when its lease ends by this server's clock, ms. Counts is
-- a hash: a worker, and how many members it has.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local ended, members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now), 0
for _, dead in ipairs(ended) do
  if dead ~= ARGV[1] then
    members = members + (redis.call('HGET', KEYS[2], dead) or 0)
  end
end

if ARGV[1] == '' then
  local count = -members
  for _, each in ipairs(redis.call('HVALS', KEYS[2])) do
    count = count + each
  end
  return count
end

for _, dead in ipairs(ended) do
  redis.call('HDEL', KEYS[2], dead)
  redis.call('ZREM', KEYS[1], dead)
end
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return members
