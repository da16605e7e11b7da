#!lua flags=allow-oom
-- Keeps a worker's part of a topic's members: its lease, who came and who went.
--
-- KEYS  1 leases   2 members
-- ARGV  1 worker   2 ms of its lease; '0': it has no member left here
--       3 ms that everything is kept without another call
--       4 'PUBLISH' or 'SPUBLISH': those who come and go are announced; '': they are not
--       5 channel   6 members of dead workers that are removed in one call at most
--       7... changes: '+' or '-', then client, space and its user as JSON, if it has one
-- Returns {lease as it was found, changes that changed something, members removed, 1 if more are
-- left}. The lease: 0 unknown, and so are all members of the worker; 1 held; 2 it had ended and
-- is held again; 3 it had ended and its members are being removed: nothing was done, try again.
--
-- Leases is a sorted set: a worker, and when its lease ends by this server's clock, ms; 0: it is
-- being removed. '~' is no worker: until then nobody is removed, as somebody's lease had ended that
-- came back; this server was out of reach, and others may come back too. Members is one of score
-- 0, so in the order of bytes: 'worker client user'. No member is without a lease. A server whose memory is full keeps presence all the same: it is
-- bounded by the clients that are connected, and must be able to shrink.

local worker = ARGV[1]
local announce = ARGV[4] ~= ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function tell(sign, entry)
  local client, user = string.match(entry, '(%S+) (.*)$')
  if user ~= '' then
    user = ',"user":' .. user
  end
  redis.call(ARGV[4], ARGV[5], sign .. '{"client":"' .. client .. '"' .. user .. '}')
end

local ends = redis.call('ZSCORE', KEYS[1], worker)
local lease = 0
if ends then
  ends = tonumber(ends)
  lease = ends == 0 and 3 or ends > now and 1 or 2
end

if lease == 2 then
  redis.call('ZADD', KEYS[1], now + ARGV[2], '~')
end
local removed, more = 0, 0
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
if #ended > 0 then
  if tonumber(redis.call('ZSCORE', KEYS[1], '~') or 0) > now then
    -- What was begun goes on.
    ended = redis.call('ZRANGEBYSCORE', KEYS[1], 0, 0)
  end
  local left = tonumber(ARGV[6])
  for _, dead in ipairs(ended) do
    local entries = {}
    if left > 0 then
      entries = redis.call(
        'ZRANGEBYLEX', KEYS[2], '[' .. dead .. ' ', '(' .. dead .. '!', 'LIMIT', 0, left)
    end
    if #entries > 0 then
      redis.call('ZREM', KEYS[2], unpack(entries))
    end
    if announce then
      for _, entry in ipairs(entries) do
        tell('<', string.match(entry, '^%S+ (.*)$'))
      end
    end
    removed = removed + #entries
    if #entries < left then
      redis.call('ZREM', KEYS[1], dead)
      if dead == worker then lease = 0 end
    else
      redis.call('ZADD', KEYS[1], 0, dead)
      more = 1
    end
    left = left - #entries
  end
end
if lease == 3 then
  return {3, 0, removed, more}
end

local changed = 0
for place = 7, #ARGV do
  local change = string.sub(ARGV[place], 2)
  local entry = worker .. ' ' .. change
  local done, sign
  if string.byte(ARGV[place]) == 43 then
    done, sign = redis.call('ZADD', KEYS[2], 0, entry), '>'
  else
    done, sign = redis.call('ZREM', KEYS[2], entry), '<'
  end
  if done == 1 then
    changed = changed + 1
    if announce then
      tell(sign, change)
    end
  end
end

if ARGV[2] ~= '0' then
  redis.call('ZADD', KEYS[1], now + ARGV[2], worker)
elseif redis.call('ZLEXCOUNT', KEYS[2], '[' .. worker .. ' ', '(' .. worker .. '!') == 0 then
  redis.call('ZREM', KEYS[1], worker)
else
  redis.call('ZADD', KEYS[1], 0, worker)  -- it has lost count of them
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {lease, changed, removed, more}
