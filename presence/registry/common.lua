-- Put before each of the scripts beside this file; they run on one Redis host each.
--
-- KEYS  1 meta     hash: epoch, born, settled, version, trimmed, run
--       2 leases   sorted set: "user connection session" by expiry
--       3 log      sorted set: user by the version of their last change
--       4 changed  sorted set: user by the time from which the change may be taken
-- ARGV  1 prefix of the keys that are made here: <prefix>user:<user>, a hash of online, version, seen
--         and one field c:<connection> = session per lease; <prefix>ended:<session>, a mark
--       2 the epoch that the caller knows, or nothing
--       3 lease, 4 retention; the script's own arguments follow from 5 on
--
-- Times are microseconds of Redis' own clock, durations microseconds. Every script returns
-- {epoch, 1 if settled else 0, its own result}.

local META, LEASES, LOG, CHANGED = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local PREFIX, KNOWN, LEASE, RETENTION = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local FIXED_FIELDS = 3

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function text(number)
  return string.format('%.0f', number)
end

local epoch, born, settled = unpack(redis.call('HMGET', META, 'epoch', 'born', 'settled'))
born, settled = tonumber(born), tonumber(settled)

local function begin_epoch(settles)
  epoch, born, settled = text(now), now, settles
  redis.call('HSET', META, 'epoch', epoch, 'born', text(born), 'settled', text(settled))
end

if not epoch then
  begin_epoch(0)
end
-- A caller that knew another epoch is a witness: this host has lost its memory. Until each process has
-- had the time to register its connections again, a missing lease means nothing.
if KNOWN ~= '' and KNOWN ~= epoch and settled < born + LEASE then
  settled = born + LEASE
  redis.call('HSET', META, 'settled', text(settled))
end

local function answer(result)
  return {epoch, now >= settled and 1 or 0, result}
end

local function record(user, online)
  local version = math.max(now, tonumber(redis.call('HGET', META, 'version') or 0) + 1)
  local key = PREFIX .. 'user:' .. user
  redis.call('HSET', META, 'version', text(version))
  redis.call('HSET', key, 'online', online, 'version', text(version))
  redis.call('ZADD', LOG, text(version), user)
  redis.call('ZADD', CHANGED, text(now), user)
  if online == 1 then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, text(RETENTION / 1000))
  end
end

-- Take a lease; 1 if this made the user online.
local function register(user, connection, session)
  if redis.call('EXISTS', PREFIX .. 'ended:' .. session) == 1 then
    return 0
  end
  local key = PREFIX .. 'user:' .. user
  redis.call('ZADD', LEASES, text(now + LEASE), user .. ' ' .. connection .. ' ' .. session)
  redis.call('HSET', key, 'c:' .. connection, session)
  if redis.call('HGET', key, 'online') == '1' then
    return 0
  end
  redis.call('HSET', key, 'seen', text(now))
  record(user, 1)
  return 1
end

-- If no lease is left, the user is offline; 1 if they were not before.
local function judge(user)
  local key = PREFIX .. 'user:' .. user
  if redis.call('HGET', key, 'online') == '1' and redis.call('HLEN', key) == FIXED_FIELDS then
    record(user, 0)
    return 1
  end
  return 0
end
