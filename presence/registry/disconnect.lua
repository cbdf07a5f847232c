-- ARGV 5 user, 6 connection, 7 grace. Result: 1 if there was a lease, else 0.
local key = PREFIX .. 'user:' .. ARGV[5]
local session = redis.call('HGET', key, 'c:' .. ARGV[6])
if not session then
  return answer(0)
end
redis.call('ZADD', LEASES, 'XX', 'LT', text(now + ARGV[7]), ARGV[5] .. ' ' .. ARGV[6] .. ' ' .. session)
redis.call('HSET', key, 'seen', text(now))
return answer(1)
