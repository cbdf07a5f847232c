-- ARGV 5… members of the leases. Result: the places (from 0) of those that were missing, now registered.
local members = {unpack(ARGV, 5)}
local expiries = redis.call('ZMSCORE', LEASES, unpack(members))
local expiry = text(now + LEASE)
local renewed, missing = {}, {}
for i, member in ipairs(members) do
  if expiries[i] then
    renewed[#renewed + 1] = expiry
    renewed[#renewed + 1] = member
  else
    missing[#missing + 1] = i - 1
    register(member:match('^(%S+) (%S+) (%S+)$'))
  end
end
if #renewed > 0 then
  redis.call('ZADD', LEASES, 'XX', unpack(renewed))
end
return answer(missing)
