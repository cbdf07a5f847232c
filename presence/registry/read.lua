-- ARGV 5… users. Result: {online, version, seen, …}, with nils for users who are not known.
local result = {}
for i = 5, #ARGV do
  local values = redis.call('HMGET', PREFIX .. 'user:' .. ARGV[i], 'online', 'version', 'seen')
  for j = 1, 3 do
    result[#result + 1] = values[j]
  end
end
return answer(result)
