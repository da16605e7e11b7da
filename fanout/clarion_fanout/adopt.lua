-- Goes on with a topic's stream that another shard has sealed, unless that has happened already.
--
-- KEYS  1 meta   2 stream
-- ARGV  1 an epoch that was never used   2 reign   3 ms that a message is kept
--       4 ms that the position is   5 epoch, 6 offset and 7 lineage of the sealed stream; epoch '':
--       there was none   8 ... id, data and conflation key of each message; key '': it has none
-- Returns 1, or 0 if the topic has a stream here.
--
-- The epoch is a new one even though nothing is lost: should this shard lose its data, the sealed
-- stream is adopted once more, and what was given out in between must not count as its successor.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'e', ARGV[1], 'o', ARGV[6], 'r', ARGV[2])
if ARGV[5] ~= '' then
  local lineage = ARGV[5] .. ':' .. ARGV[6]
  local kept = 1
  for entry in string.gmatch(ARGV[7], '%S+') do
    if kept == 8 then break end
    lineage = lineage .. ' ' .. entry
    kept = kept + 1
  end
  redis.call('HSET', KEYS[1], 'l', lineage)
end
for place = 8, #ARGV, 3 do
  if ARGV[place + 2] == '' then
    redis.call('XADD', KEYS[2], ARGV[place], 'd', ARGV[place + 1])
  else
    redis.call('XADD', KEYS[2], ARGV[place], 'd', ARGV[place + 1], 'k', ARGV[place + 2])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
