-- Joins the order, or begins it. ARGV: key prefix, the epoch of a new term, what identifies the running Redis, the caller's
-- epoch or nothing. Answers with the epoch, the last number, and the last number of the caller's term if it has ended.
--
-- Another Redis, or one that was restarted, may have lost its last events. So it begins a term, whose numbers are above all
-- of the term before: at the time in microseconds, as long as fewer than a million events a second are published.
local call, head = redis.call, ARGV[1] .. 'head'

local function int(number)
  return string.format('%d', number)
end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local epoch, last, run = unpack(call('HMGET', head, 'epoch', 'last', 'run'))
if not epoch then
  epoch, last = ARGV[2], int(now)
  call('HSET', head, 'format', 1, 'epoch', epoch, 'last', last, 'run', ARGV[3])
elseif run ~= ARGV[3] then
  call('HSET', head, 'ended ' .. epoch, last)
  epoch, last = ARGV[2], int(math.max(now, tonumber(last)))
  call('HSET', head, 'epoch', epoch, 'last', last, 'run', ARGV[3])
end
return { epoch, last, call('HGET', head, 'ended ' .. ARGV[4]) }
