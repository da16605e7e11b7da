#!lua flags=allow-oom
-- Puts a worker on the roll for a while, or takes it off, and says who is on it.
--
-- KEYS  1 roll
-- ARGV  1 the worker: its id, a space, what it says of itself   2 ms of the lease; 0: it leaves
--       3 '1': the roll is wanted   4 the most that is returned of it
-- Returns the roll: a worker, the ms its lease has left, the next worker, ...
--
-- The roll is a sorted set; scores are when leases end, by this server's clock, so that the clocks
-- of workers do not matter. It ends with the last lease. A server whose memory is full keeps it all
-- the same: that is when operators want to know who is there, and it has a line for each worker.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if tonumber(ARGV[2]) > 0 then
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last[2]))
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end

local roll = {}
if ARGV[3] == '1' then
  local entries = redis.call('ZRANGE', KEYS[1], 0, ARGV[4] - 1, 'WITHSCORES')
  for place = 1, #entries, 2 do
    roll[place] = entries[place]
    roll[place + 1] = tonumber(entries[place + 1]) - now
  end
end
return roll
