-- Publishes one message in a topic without history, unless its idempotency key is known.
--
-- KEYS  1 idempotency key   2 that of the message that must have been published before this one, if
--       there is such a message
-- ARGV  1 channel   2 payload   3 ms that the key is remembered   4 'PUBLISH' or 'SPUBLISH'
-- Returns 1 if the key was known, else 0. Or 'ORDER': the message before this one was not published.

if KEYS[2] and redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then
  return 'ORDER'
end
if not redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[3]) then
  return 1
end
redis.call(ARGV[4], ARGV[1], ARGV[2])
return 0
