#!lua flags=allow-oom
-- Joins the order, or begins it. ARGV: key prefix, the epoch of a new term, what identifies the running Redis, the caller's
-- epoch or nothing, the newest format that the caller knows. Answers with the epoch, the last number, and the last number of
-- the caller's term if it has ended.
--
-- Another Redis, or one that was restarted, may have lost its last events. So it begins a term, whose numbers are above all
-- of the term before: at the time in microseconds, as long as fewer than a million events a second are published. The hash
-- of gaps has the numbers between two terms. A node or a client that has come to such a number has events which are lost.
local call, head, gaps = redis.call, ARGV[1] .. 'head', ARGV[1] .. 'gaps'

local function int(number)
  return string.format('%d', number)
end

-- A gap is forgotten when no session is as old.
local OLDEST = 30 * 86400 * 1000000

local format = call('HGET', head, 'format')
if format and tonumber(format) > tonumber(ARGV[5]) then
  return redis.error_reply('FORMAT ' .. format)
end

if call('HGET', ARGV[1] .. 'migration', 'state') == 'under way' then
  return redis.error_reply('MIGRATION not complete')
end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local epoch, last, run = unpack(call('HMGET', head, 'epoch', 'last', 'run'))
if not epoch or run ~= ARGV[3] then
  local before = last or '0'
  if epoch then
    call('HSET', head, 'ended ' .. epoch, last)
  end
  epoch, last = ARGV[2], int(math.max(now, tonumber(before)))
  call('HSET', head, 'format', ARGV[5], 'epoch', epoch, 'last', last, 'run', ARGV[3])
  local known = call('HGETALL', gaps)
  for n = 1, #known, 2 do
    if tonumber(known[n + 1]) < now - OLDEST then
      call('HDEL', gaps, known[n])
    end
  end
  call('HSET', gaps, before, last)
end
return { epoch, last, call('HGET', head, 'ended ' .. ARGV[4]) }
