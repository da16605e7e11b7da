-- Publishes one message in a topic without history, unless its idempotency key is known.
--
-- KEYS  1 idempotency key
-- ARGV  1 channel   2 payload   3 ms that the key is remembered   4 'PUBLISH' or 'SPUBLISH'
-- Returns 1 if the key was known, else 0.

if not redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[3]) then
  return 1
end
redis.call(ARGV[4], ARGV[1], ARGV[2])
return 0
