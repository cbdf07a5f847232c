-- ARGV 5… user, version, …. Result: how many were forgotten; a user who changed again since is not.
local forgotten = 0
for i = 5, #ARGV, 2 do
  if redis.call('HGET', PREFIX .. 'user:' .. ARGV[i], 'version') == ARGV[i + 1] then
    forgotten = forgotten + redis.call('ZREM', CHANGED, ARGV[i])
  end
end
return answer(forgotten)
