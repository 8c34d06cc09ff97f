-- Claims a prefix for a migration, or finds out why it can't. ARGV: key prefix, what identifies the folder, whether to claim,
-- how long a node counts as running in ms, the format. Answers with a word: `new`, `again` (this very migration has begun),
-- `done` (it has ended), `other` (another one has begun and not ended), `running` with the number of nodes, or `data`.
local call, P = redis.call, ARGV[1]
local migration = P .. 'migration'

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local source, state = unpack(call('HMGET', migration, 'source', 'state'))
if source == ARGV[2] then
  return { state == 'done' and 'done' or 'again', '' }
end
if source and state ~= 'done' then
  return { 'other', '' }
end
local running = call('ZCOUNT', P .. 'nodes', now - ARGV[4], '+inf')
if running > 0 then
  return { 'running', running }
end
-- A node that has run makes the first. The others are of a migration whose mark is gone.
for _, name in ipairs({ 'head', 'media', 'keys', 'revocations' }) do
  if call('EXISTS', P .. name) == 1 then
    return { 'data', '' }
  end
end
if source then
  return { 'data', '' }
end
if ARGV[3] == '1' then
  call('HSET', migration, 'source', ARGV[2], 'state', 'under way', 'format', ARGV[5])
end
return { 'new', '' }
