-- Reads a topic's stream.
--
-- KEYS  1 meta   2 stream
-- ARGV  1 'since', 'follow', 'last', 'all' or 'none'
--       2 epoch and 3 offset of since and follow, or 2 the number of last; of follow, behind the
--       epoch and a space, those that came before it, the newest first
--       4 at most so many messages, '-1': all   5 '1': newest first
--       6 messages accepted before this time, ms, are too old
--       7 an epoch that was never used   8 reign   9 ms that the position is kept; '0': a question
--       alone leaves nothing behind   10 '0': a stream that is not here has yet to come
--       11 'PUBLISH' or 'SPUBLISH'
-- Returns {epoch, offset of the newest, 1 if nothing is missing, else 0, {{id, {'d', data[, 'k', key]}}, ...}}, or
-- 'SEALED': the stream has moved to another shard, or 'EMPTY': it has yet to come.
--
-- Since a position that is not the stream's: everything that is kept. Follow differs in this: what
-- was given out before the stream turned away from that position is left out, as it was fed. And
-- where the stream has lost something since that position, the third of what is returned says behind
-- which offset it was last: -1 less that.
--
-- Whoever follows has been at that position. So if the stream knows its epoch, but nothing beyond a
-- smaller offset, it has lost something, and whoever stands before that has missed it without
-- knowing. Then another epoch begins, of which nobody is told that it continues the old one
-- completely ('!' in the lineage). That is done once; followers are told by the payload '!'.
--
-- A stream that stepped back behind the beginning of an epoch does not know that epoch, and has the one
-- before it again, with offsets that went on in the epoch it has forgotten. So whoever follows names
-- the epochs that he came through: if the stream knows one of these only, it has lost all that came
-- after it.

local meta = redis.call('HMGET', KEYS[1], 'e', 'o', 'l', 'm')
local epoch = meta[1]
if meta[4] then
  return 'SEALED'
end
if not epoch then
  if ARGV[10] == '0' then
    return 'EMPTY'
  end
  if ARGV[9] ~= '0' then
    redis.call('HSET', KEYS[1], 'e', ARGV[7], 'o', 0, 'r', ARGV[8])
    redis.call('PEXPIRE', KEYS[1], ARGV[9])
    redis.call('DEL', KEYS[2])
  end
  return {ARGV[7], 0, (ARGV[1] == 'since' or ARGV[1] == 'follow') and 0 or 1, {}}
end
if ARGV[9] ~= '0' and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[9]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[9])
end
local newest = tonumber(meta[2])
if ARGV[1] == 'none' then
  return {epoch, newest, 1, {}}
end

-- The oldest message that is there and not too old.
local first = newest + 1
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if oldest then
  local offset, ts = string.match(oldest[1], '^(%d+)-(%d+)$')
  first = tonumber(offset)
  if tonumber(ts) < tonumber(ARGV[6]) then
    -- Messages come nearly in the order of their times; halve what may be too old.
    local low, high = first, newest + 1
    while low < high do
      local middle = math.floor((low + high) / 2)
      local entry = redis.call('XRANGE', KEYS[2], middle, '+', 'COUNT', 1)[1]
      local entry_ts = entry and tonumber(string.match(entry[1], '-(%d+)$'))
      if entry and entry_ts < tonumber(ARGV[6]) then
        low = tonumber(string.match(entry[1], '^(%d+)')) + 1
      else
        high = middle
      end
    end
    first = low
  end
end

local from, to, complete = first, newest, 1
if ARGV[1] == 'since' or ARGV[1] == 'follow' then
  local offset = tonumber(ARGV[3])
  -- Up to where that epoch is part of the stream, and whether nothing is missing since.
  local limit, whole = -1, true
  local known = true
  for name in string.gmatch(ARGV[2], '%S+') do
    if name == epoch then
      limit = newest
    else
      for ancestor, last, mark in string.gmatch(meta[3] or '', '(%S+):(%d+)(!?)') do
        if ancestor == name then
          limit, whole = tonumber(last), mark == ''
          break
        end
      end
    end
    known = known and offset <= limit
    if limit >= 0 then
      break
    end
  end
  if ARGV[1] == 'follow' and limit >= 0 and not known and whole then
    local lineage = epoch .. ':' .. newest .. '!'
    local kept = 1
    for entry in string.gmatch(meta[3] or '', '[^ !]+') do
      if kept == 8 then break end
      lineage = lineage .. ' ' .. entry .. '!'
      kept = kept + 1
    end
    epoch = ARGV[7]
    redis.call('HSET', KEYS[1], 'e', epoch, 'r', ARGV[8], 'l', lineage)
    redis.call(ARGV[11], string.match(KEYS[1], '{(.*)}'), '!')
  end
  if ARGV[5] == '1' then
    complete = known and 1 or 0
    to = known and offset - 1 or 0
  else
    complete = known and whole and offset + 1 >= first and 1 or 0
    if ARGV[1] == 'follow' and not (known and whole) then
      local gap = string.match(meta[3] or '', ':(%d+)!')
      complete = gap and -1 - gap or 0
    end
    if known then
      from = math.max(offset + 1, first)
    elseif ARGV[1] == 'follow' then
      from = math.max(limit + 1, first)
    end
  end
elseif ARGV[1] == 'last' then
  from = math.max(newest - tonumber(ARGV[2]) + 1, first)
end
if from > to then
  return {epoch, newest, complete, {}}
end

local range
if ARGV[5] == '1' then
  range = {'XREVRANGE', KEYS[2], to, from}
else
  range = {'XRANGE', KEYS[2], from, to}
end
if ARGV[4] ~= '-1' then
  if ARGV[4] == '0' then
    return {epoch, newest, complete, {}}
  end
  range[5], range[6] = 'COUNT', ARGV[4]
end
local found = redis.call(unpack(range))
-- Somebody may have deleted some of them. Whoever follows sees that for himself.
local most = ARGV[4] == '-1' and to - from + 1 or math.min(tonumber(ARGV[4]), to - from + 1)
if ARGV[1] == 'since' and #found < most then
  complete = 0
end
return {epoch, newest, complete, found}
