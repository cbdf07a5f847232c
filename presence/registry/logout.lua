-- ARGV 5 user, 6 session. Result: 1 if this made the user offline, else 0.
local key = PREFIX .. 'user:' .. ARGV[5]
-- A process that has not heard of the logout yet must not register the session's connections again.
redis.call('SET', PREFIX .. 'ended:' .. ARGV[6], 1, 'PX', text(2 * LEASE / 1000))
local fields = redis.call('HGETALL', key)
local dropped = false
for i = 1, #fields, 2 do
  if fields[i]:sub(1, 2) == 'c:' and fields[i + 1] == ARGV[6] then
    redis.call('HDEL', key, fields[i])
    redis.call('ZREM', LEASES, ARGV[5] .. ' ' .. fields[i]:sub(3) .. ' ' .. ARGV[6])
    dropped = true
  end
end
if not dropped then
  return answer(0)
end
redis.call('HSET', key, 'seen', text(now))
return answer(judge(ARGV[5]))
