-- Buries an entry of an inbox: keeps its fields, why, and its id; and removes it from the inbox.
--
-- KEYS  1 dead letters   2 inbox, where both are on one node: in a cluster it is removed apart
-- ARGV  1 dead letters that are kept, about   2 the entry's id   3... names and values that are kept
--
-- At once, so that it is not worked on anew, and published then, when the worker dies in between. A
-- dead letter that cannot be kept ends the script: the entry stays.

redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 3))
if KEYS[2] then
  redis.call('XACK', KEYS[2], 'clarion', ARGV[2])
  redis.call('XDEL', KEYS[2], ARGV[2])
end
