-- ARGV 5 limit. Result: how many expired leases were taken.
--
-- A host that was restarted from its disk, or a replica that took over, has leases that nobody could
-- renew meanwhile. Its run id gives it away: nothing is taken until all had the time to come back.
local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
local known_run = redis.call('HGET', META, 'run')
if known_run ~= run then
  redis.call('HSET', META, 'run', run)
  if known_run then
    begin_epoch(now + LEASE)
  end
end

local bound = text(now - RETENTION)
local trimmed = redis.call('ZREVRANGEBYSCORE', LOG, '(' .. bound, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
if trimmed then
  redis.call('HSET', META, 'trimmed', trimmed)
  redis.call('ZREMRANGEBYSCORE', LOG, '-inf', '(' .. bound)
end

if now < settled then
  return answer(0)
end
local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, ARGV[5])
for i = 1, #expired, 2 do
  local user, connection = expired[i]:match('^(%S+) (%S+) ')
  local key = PREFIX .. 'user:' .. user
  redis.call('ZREM', LEASES, expired[i])
  if redis.call('HDEL', key, 'c:' .. connection) == 1 then
    -- When it was last renewed; a lease that was shortened ran out of a later `seen` already.
    local renewed = expired[i + 1] - LEASE
    if renewed > tonumber(redis.call('HGET', key, 'seen')) then
      redis.call('HSET', key, 'seen', text(renewed))
    end
    judge(user)
  end
end
return answer(#expired / 2)
