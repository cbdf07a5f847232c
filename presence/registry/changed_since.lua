-- ARGV 5 version, or nothing for the present place; 6 the epoch in which it was read; 7 limit.
-- Result: {1 if complete else 0, the place to go on from, 1 if there may be more, user, online, version, seen, …}.
local head = redis.call('HGET', META, 'version') or '0'
if ARGV[5] == '' then
  return answer({1, head, 0})
end
local after = tonumber(ARGV[5])
local trimmed = tonumber(redis.call('HGET', META, 'trimmed') or 0)
if ARGV[6] ~= epoch or after > tonumber(head) or after < trimmed then
  return answer({0, head, 0})
end
local result = {1, head, 0}
local entries = redis.call('ZRANGEBYSCORE', LOG, '(' .. ARGV[5], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[7])
for i = 1, #entries, 2 do
  local user = entries[i]
  local online, version, seen = unpack(redis.call('HMGET', PREFIX .. 'user:' .. user, 'online', 'version', 'seen'))
  if version then
    for _, value in ipairs({user, online, version, seen}) do
      result[#result + 1] = value
    end
  end
end
if #entries / 2 == tonumber(ARGV[7]) then
  result[2] = text(tonumber(entries[#entries]))
  result[3] = 1
end
return answer(result)
