-- ARGV 5 limit, 6 claim. Result: {user, online, version, seen, …}, not given to others before the claim is over.
local result = {}
for _, user in ipairs(redis.call('ZRANGEBYSCORE', CHANGED, '-inf', text(now), 'LIMIT', 0, ARGV[5])) do
  local online, version, seen = unpack(redis.call('HMGET', PREFIX .. 'user:' .. user, 'online', 'version', 'seen'))
  if version then
    redis.call('ZADD', CHANGED, 'XX', text(now + ARGV[6]), user)
    for _, value in ipairs({user, online, version, seen}) do
      result[#result + 1] = value
    end
  else
    -- Nobody took it for as long as offline users are kept.
    redis.call('ZREM', CHANGED, user)
  end
end
return answer(result)
