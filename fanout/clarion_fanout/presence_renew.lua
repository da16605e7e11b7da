#!lua flags=allow-oom
-- Renews a worker's leases in topics where nothing else is to be done.
--
-- KEYS  1, 3, ... leases   2, 4, ... members or counts; see presence.lua and presence_count.lua
-- ARGV  1 worker   2 ms of the leases   3 ms that everything is kept without another call
-- Returns the places, from 1, of the topics where there is something to be done, so that their own
-- scripts must be called: the worker's lease had ended, or another's has.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local others = {}
for place = 1, #KEYS, 2 do
  if redis.call('ZCOUNT', KEYS[place], '-inf', now) == 0
    and redis.call('ZADD', KEYS[place], 'XX', 'CH', now + ARGV[2], ARGV[1]) == 1 then
    redis.call('PEXPIRE', KEYS[place], ARGV[3])
    redis.call('PEXPIRE', KEYS[place + 1], ARGV[3])
  else
    others[#others + 1] = (place + 1) / 2
  end
end
return others
