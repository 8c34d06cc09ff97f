#!lua name={name}
-- Carries out a batch of operations, in order, as one step. `script.rs` writes the arguments and reads the answer.
--
-- A committed change answers with the number of its event. Other answers are a list of an outcome and its values.
--
-- Arguments: key prefix, epoch, node, number of the batch, time in ms, limits, count of operations, then the operations: a
-- name, the number of its arguments, and these. The answer has an element for each operation, and the number of the last
-- event.
--
-- No operation is done by half: Redis undoes nothing, so each reads all keys that it writes before its first write. A
-- foreign value of another type ends the operation there, with an error of its own.
--
-- It is a function and no script: a script would make all of its Lua functions anew for each batch.

-- Set for each batch.
local call, args, at, P, NODE, NOW, NOW_TEXT, head, last

-- The limits, by their place in the argument, and their texts: Redis writes a number of Lua as a float, which takes long.
local limits, texts, limits_text
local MEDIA_TTL, MEDIA_ROWS, NOTE_TTL, USER_ROWS, LOG_TTL, ROOM_ROWS = 1, 2, 3, 4, 5, 6
local KEY_TTL, KEYS_ALL, KEYS_OF, SESSION_TTL, PAGE_BYTES, INBOX_BYTES, REPLAY_BYTES, PER_KEY = 7, 8, 9, 10, 11, 12, 13, 14
local AWAY_TTL = 15
local USER = {user}

-- How long a node counts as running after its last batch, in ms. It sends one each second.
local LEASE = 5000

-- The longest time in ms that a change of a session waits in a node.
local LATEST_SAVE = 600000

local function arg()
  at = at + 1
  return args[at]
end

-- A number as Redis stores it. Lua itself prints those from 1e14 on as floats.
local function int(number)
  return string.format('%d', number)
end

local function field(text)
  return #text .. ':' .. text
end

-- Keeps a key for at least half of this time, without a write for each event.
local function touch(key, ttl)
  if call('PTTL', key) * 2 < ttl then
    call('PEXPIRE', key, ttl)
  end
end

-- The number of the next event.
local function number()
  last = last + 1
  return int(last)
end

local function channel(namespace, room)
  return P .. 'room:' .. namespace .. ':' .. room
end

local function log_of(namespace, room)
  return P .. 'log:' .. namespace .. ':' .. room
end

-- The number and the time of the room's last event in its log.
local function last_of(log)
  local entry = call('LINDEX', log, '-1')
  if not entry then
    return '0', 0
  end
  local seq, time = string.match(entry, '^(%d+) %d+ (%d+) ')
  if not seq then
    error('a foreign entry in a log')
  end
  return seq, tonumber(time)
end

-- The log is kept for at least its time after its last event, without a write to that for each of them.
local function append(log, before_at, entry)
  local rows = call('RPUSH', log, entry)
  if rows > limits[ROOM_ROWS] then
    call('LPOP', log)
  end
  local half = limits[LOG_TTL] / 2
  if math.floor(before_at / half) ~= math.floor(NOW / half) then
    call('PEXPIRE', log, limits[LOG_TTL] + half)
  end
end

-- An event's message: everything about it but its number.
local function message(namespace, room, owner_room, event, class, effect, count, id, argument)
  local names = field(namespace) .. field(room) .. field(owner_room) .. field(event) .. field(id)
  return NODE .. ' ' .. class .. ' ' .. effect .. ' ' .. count .. ' ' .. names .. argument
end

-- A message with its number, and that of the room's event before it.
local function numbered(seq, before, message)
  return seq .. ' ' .. before .. ' ' .. NOW_TEXT .. ' ' .. message
end

-- Receipts. A key's hash has the fingerprint of its request, and a receipt for each accepted item.

local NO_KEY = { publisher = '' }

local function key_args()
  local publisher = arg()
  if publisher == '' then
    return NO_KEY
  end
  local key = { publisher = publisher }
  key.name, key.item, key.fingerprint = arg(), arg(), arg()
  key.hash = P .. 'key:' .. field(publisher) .. key.name
  key.used = P .. 'keys:' .. publisher
  key.of_all = P .. 'keys'
  return key
end

-- The number of keys of these, without those that are forgotten.
local function keys_in(used)
  call('ZREMRANGEBYSCORE', used, '-inf', NOW - limits[KEY_TTL])
  return call('ZCARD', used)
end

-- The receipt of an earlier publish, or why there can be none.
local function receipt(key)
  if key.publisher == '' then
    return nil
  end
  local found = call('HMGET', key.hash, 'fingerprint', key.item)
  if found[1] then
    if found[1] ~= key.fingerprint then
      return { 'key reused' }
    end
    if found[2] then
      return { 'repeated', found[2] }
    end
    return nil
  end
  local of_publisher = keys_in(key.used) >= limits[KEYS_OF]
  if keys_in(key.of_all) >= limits[KEYS_ALL] or of_publisher then
    local oldest = call('ZRANGE', of_publisher and key.used or key.of_all, 0, 0, 'WITHSCORES')
    local wait = math.max(0, (tonumber(oldest[2]) or NOW) + limits[KEY_TTL] - NOW)
    return { 'too many keys', of_publisher and 1 or 0, of_publisher and limits[KEYS_OF] or limits[KEYS_ALL], int(wait) }
  end
  return nil
end

local function keep_receipt(key, id, stored, seq)
  if key.publisher == '' then
    return
  end
  local added = call('HSET', key.hash, 'fingerprint', key.fingerprint, key.item, stored .. ' ' .. seq .. ' ' .. id)
  local items = call('HLEN', key.hash) - 1
  if added == 2 then
    call('PEXPIRE', key.hash, limits[KEY_TTL])
    touch(key.used, 2 * limits[KEY_TTL])
  end
  if (items - 1) % limits[PER_KEY] == 0 then
    call('ZADD', key.used, NOW, key.name .. ' ' .. items)
    call('ZADD', key.of_all, NOW, field(key.publisher) .. key.name .. ' ' .. items)
  end
end

-- Media items. The state: number, attempt, step, progress, time, owner; then the payload of the last event.

local function state_of(text)
  local state = {}
  state.seq, state.attempt, state.step, state.progress, state.at, state.owner_bytes, state.from =
    string.match(text, '^(%d+) (%d+) ([pce]) (%S+) (%d+) (%d+):()')
  state.owner = string.sub(text, state.from, state.from + state.owner_bytes - 1)
  return state
end

-- The rules of `store/media.rs`. Whoever is refused reads the state, and has the reason from there.
local function may_follow(state, change)
  if change.follows ~= '' and (not state or state.seq ~= change.follows) then
    return nil
  end
  if not state then
    return change.attempt == '' and '1' or change.attempt
  end
  if state.owner ~= '' and change.owner ~= '' and state.owner ~= change.owner then
    return nil
  end
  local attempt = change.attempt == '' and state.attempt or change.attempt
  if tonumber(attempt) < tonumber(state.attempt) then
    return nil
  end
  if tonumber(attempt) == tonumber(state.attempt) then
    if state.step ~= 'p' or (change.step == 'p' and tonumber(change.progress) < tonumber(state.progress)) then
      return nil
    end
  end
  return attempt
end

local EVENTS = { p = 'mediaProgress', c = 'mediaComplete', e = 'mediaError' }

local function remove_oldest_item()
  local oldest = call('ZPOPMIN', P .. 'media')
  local id = oldest[1]
  local text = id and call('GET', P .. 'item:' .. id)
  if text then
    local state = state_of(text)
    call('DEL', P .. 'item:' .. id)
    if state.owner ~= '' then
      call('ZREM', P .. 'owned:' .. state.owner, id)
    end
  end
end

local operations = {}

operations['room'] = function()
  local id, key = arg(), key_args()
  -- The node has written the message, but for what is decided here.
  local class, event, where, text, node = arg(), arg(), arg(), arg(), arg()
  local known = receipt(key)
  if known then
    return known
  end
  local log, before, before_at = P .. 'log:' .. where, '-', 0
  if class == 'l' then
    call('HGET', P .. 'latest:' .. where, event)
  else
    before, before_at = last_of(log)
  end
  local sockets, before_of_sockets, before_of_sockets_at = P .. 'log:sockets:' .. node, '-', 0
  if node ~= '' then
    before_of_sockets, before_of_sockets_at = last_of(sockets)
  end
  local seq = number()
  local entry = seq .. ' ' .. before .. ' ' .. NOW_TEXT .. ' ' .. NODE .. ' ' .. text
  if class == 'l' then
    local newest = P .. 'latest:' .. where
    call('HSET', newest, event, entry)
    touch(newest, limits[LOG_TTL])
  else
    append(log, before_at, entry)
  end
  keep_receipt(key, id, class == 'd' and 1 or 0, seq)
  call('PUBLISH', P .. 'room:' .. where, entry)
  if node ~= '' then
    local for_sockets = seq .. ' ' .. before_of_sockets .. ' ' .. NOW_TEXT .. ' ' .. NODE .. ' ' .. text
    append(sockets, before_of_sockets_at, for_sockets)
    call('PUBLISH', P .. 'sockets:' .. node, for_sockets)
  end
  return seq
end

operations['media'] = function()
  local id, key = arg(), key_args()
  local media, room, owner, attempt, follows = arg(), arg(), arg(), arg(), arg()
  local step, progress, moment, payload = arg(), arg(), arg(), arg()
  local known = receipt(key)
  if known then
    return known
  end
  local item = P .. 'item:' .. media
  local text = call('GET', item)
  local state = text and state_of(text)
  local change = { owner = owner, attempt = attempt, follows = follows, step = step, progress = progress }
  attempt = may_follow(state, change)
  if not attempt then
    return { 'refused', text or '' }
  end
  local before_owner = state and state.owner or ''
  owner = before_owner ~= '' and before_owner or owner
  local owner_room = owner ~= '' and USER .. owner or ''
  local log, owner_log, owned = log_of('/media', room), log_of('/media', owner_room), P .. 'owned:' .. owner
  local before, before_at, before_of_owner, before_of_owner_at = '-', 0, '-', 0
  if step ~= 'p' then
    before, before_at = last_of(log)
    if owner ~= '' then
      before_of_owner, before_of_owner_at = last_of(owner_log)
    end
  end
  call('ZSCORE', P .. 'media', media)
  if owner ~= '' then
    call('ZSCORE', owned, media)
  end

  local seq = number()
  local effect = before_owner == '' and owner ~= '' and 'o' or '-'
  local sent = message('/media', room, owner_room, EVENTS[step], step == 'p' and 'l' or 'd', effect, 0, media, payload)
  if step ~= 'p' then
    append(log, before_at, numbered(seq, before, sent))
    if owner ~= '' then
      append(owner_log, before_of_owner_at, numbered(seq, before_of_owner, sent))
    end
  end
  call('SET', item, table.concat({ seq, attempt, step, progress, moment, field(owner) }, ' ') .. payload, 'PX', texts[MEDIA_TTL])
  if call('ZADD', P .. 'media', seq, media) == 1 and call('ZCARD', P .. 'media') > limits[MEDIA_ROWS] then
    -- A foreign value in its place does not fail this event.
    pcall(remove_oldest_item)
  end
  if owner ~= '' then
    if step == 'p' then
      call('ZADD', owned, seq, media)
      touch(owned, limits[MEDIA_TTL])
    else
      call('ZREM', owned, media)
    end
  end
  keep_receipt(key, id, 1, seq)
  call('PUBLISH', channel('/media', room), numbered(seq, before, sent))
  if owner ~= '' then
    call('PUBLISH', channel('/media', owner_room), numbered(seq, before_of_owner, sent))
  end
  return seq
end

-- Notifications of a user: a hash of them by id, their order, the unread ones, and the number up to which all were
-- received.

local function inbox_of(user)
  return P .. 'notes:' .. user, P .. 'notes-order:' .. user, P .. 'notes-unread:' .. user, P .. 'notes-received:' .. user
end

-- The keys of an inbox are kept together.
local function touch_inbox(user)
  local notes, order, unread, received = inbox_of(user)
  if call('PTTL', order) * 2 < limits[NOTE_TTL] or call('PTTL', unread) < 0 then
    for _, key in ipairs({ notes, order, unread, received }) do
      call('PEXPIRE', key, limits[NOTE_TTL])
    end
  end
end

operations['notification'] = function()
  local id, key = arg(), key_args()
  local user, fingerprint, payload = arg(), arg(), arg()
  local known = receipt(key)
  if known then
    return known
  end
  local notes, order, unread = inbox_of(user)
  local found = call('HGET', notes, id)
  if found then
    local seq, print = string.match(found, '^(%d+) (%x+) ')
    if print ~= fingerprint then
      return { 'notification id reused' }
    end
    return { 'repeated', '1 ' .. seq .. ' ' .. id }
  end
  local room = USER .. user
  local log = log_of('/notifications', room)
  local before, before_at = last_of(log)
  call('ZCARD', order)
  call('SCARD', unread)

  local seq = number()
  call('HSET', notes, id, seq .. ' ' .. fingerprint .. ' ' .. payload)
  call('SADD', unread, id)
  if call('ZADD', order, seq, id) == 1 and call('ZCARD', order) > limits[USER_ROWS] then
    local oldest = call('ZPOPMIN', order)[1]
    call('HDEL', notes, oldest)
    call('SREM', unread, oldest)
  end
  touch_inbox(user)
  local text = message('/notifications', room, '', 'notification', 'd', 'n', call('SCARD', unread), user, payload)
  local entry = numbered(seq, before, text)
  append(log, before_at, entry)
  keep_receipt(key, id, 1, seq)
  call('PUBLISH', channel('/notifications', room), entry)
  return seq
end

operations['read'] = function()
  local user, kind, count = arg(), arg(), tonumber(arg())
  local ids = {}
  for n = 1, count do
    ids[n] = arg()
  end
  local notes, order, unread = inbox_of(user)
  if kind == 'up to' then
    local score = call('ZSCORE', order, ids[1])
    if not score then
      return { 'unknown' }
    end
    ids = call('ZRANGEBYSCORE', order, '-inf', score)
  end
  local changed = 0
  for from = 1, #ids, 1000 do
    changed = changed + call('SREM', unread, unpack(ids, from, math.min(from + 999, #ids)))
  end
  local left = call('SCARD', unread)
  if changed > 0 then
    local room = USER .. user
    local text = message('/notifications', room, '', '', '-', 'u', left, user, '')
    call('PUBLISH', channel('/notifications', room), numbered(number(), '-', text))
  end
  return { 'done', left, int(last) }
end

operations['received'] = function()
  local user, up_to = arg(), arg()
  local _, order, _, received = inbox_of(user)
  if tonumber(call('GET', received) or '0') < tonumber(up_to) and call('EXISTS', order) == 1 then
    call('SET', received, up_to, 'PX', texts[NOTE_TTL])
  end
  return { 'done' }
end

-- Ids with their notifications, up to a number of bytes; at least one.
local function take(notes, unread, ids, limit, most_bytes)
  local rows, bytes, more = {}, 0, false
  for n = 1, #ids do
    local note = call('HGET', notes, ids[n])
    if note then
      local seq, from = string.match(note, '^(%d+) %x+ ()')
      bytes = bytes + #note - from + 1
      if #rows == limit or (bytes > most_bytes and #rows > 0) then
        more = true
        break
      end
      rows[#rows + 1] = { ids[n], seq, string.sub(note, from), call('SISMEMBER', unread, ids[n]) }
    end
  end
  return rows, more and 1 or 0
end

operations['inbox'] = function()
  local user, limit = arg(), tonumber(arg())
  local notes, order, unread, received = inbox_of(user)
  local after = call('GET', received) or '0'
  local ids = call('ZRANGEBYSCORE', order, '(' .. after, '+inf', 'LIMIT', 0, limit + 1)
  local rows, more = take(notes, unread, ids, limit, limits[INBOX_BYTES])
  return { 'done', rows, more, call('SCARD', unread), int(last) }
end

operations['page'] = function()
  local user, before, limit = arg(), arg(), tonumber(arg())
  local notes, order, unread = inbox_of(user)
  local to = '+inf'
  if before ~= '' then
    to = call('ZSCORE', order, before)
    if not to then
      return { 'unknown' }
    end
    to = '(' .. to
  end
  local ids = call('ZREVRANGEBYSCORE', order, to, '-inf', 'LIMIT', 0, limit + 1)
  local rows, more = take(notes, unread, ids, limit, limits[PAGE_BYTES])
  return { 'done', rows, more, call('SCARD', unread), int(last) }
end

operations['key'] = function()
  return receipt(key_args()) or { 'done' }
end

operations['item'] = function()
  return { 'done', call('GET', P .. 'item:' .. arg()), int(last) }
end

operations['owners'] = function()
  local found = {}
  for n = 1, tonumber(arg()) do
    local text = call('GET', P .. 'item:' .. arg())
    found[n] = text and state_of(text).owner or ''
  end
  return { 'done', found }
end

operations['newest item'] = function()
  return { 'done', call('ZREVRANGE', P .. 'media', 0, 0, 'WITHSCORES')[2] or '0' }
end

operations['under way'] = function()
  local after, to, most = arg(), arg(), tonumber(arg())
  local found = call('ZRANGEBYSCORE', P .. 'media', '(' .. after, to, 'WITHSCORES', 'LIMIT', 0, most)
  local rows = {}
  for n = 1, #found, 2 do
    local text = call('GET', P .. 'item:' .. found[n])
    if text and state_of(text).step == 'p' then
      rows[#rows + 1] = { found[n], found[n + 1] }
    end
  end
  return { 'done', rows, #found / 2 == most and found[#found] or to }
end

-- The entries of a room's log with higher numbers than this, newest first, and the bytes so far. nil if some of them are
-- gone, or there are too many bytes.
local function entries(log, after, to, bytes, most_bytes)
  local found, from, expected = {}, -1, nil
  while true do
    local chunk = call('LRANGE', log, from - 31, from)
    for n = #chunk, 1, -1 do
      local seq, before = string.match(chunk[n], '^(%d+) (%d+) ')
      if expected and seq ~= expected then
        -- An entry between them was removed.
        return nil, bytes
      end
      expected = before
      if tonumber(seq) <= after then
        return found, bytes
      end
      if tonumber(seq) <= to then
        bytes = bytes + #chunk[n]
        if bytes > most_bytes then
          return nil, bytes
        end
        found[#found + 1] = chunk[n]
      end
      if tonumber(before) <= after then
        return found, bytes
      end
    end
    if #chunk == 0 then
      -- Without entries, nothing was published for as long as any session lives. Otherwise the oldest are gone.
      return from == -1 and found or nil, bytes
    end
    from = from - 32
  end
end

-- What a room has besides its log: the newest of its latest events, and the states of its items.
local function newest_of(namespace, room, kind, id, since, to)
  local latest, items = {}, {}
  if kind ~= 'inbox' then
    latest = call('HVALS', P .. 'latest:' .. namespace .. ':' .. room)
  end
  if kind == 'item' then
    items[1] = { id, call('GET', P .. 'item:' .. id) }
  elseif kind == 'owner' then
    local ids = call('ZRANGEBYSCORE', P .. 'owned:' .. id, '(' .. int(since), to)
    for k = 1, #ids do
      items[k] = { ids[k], call('GET', P .. 'item:' .. ids[k]) }
    end
  end
  return latest, items
end

-- Whether events up to this number are lost: it is of a term whose end Redis does not have.
local function is_in_gap(number)
  local gaps = call('HGETALL', P .. 'gaps')
  for n = 1, #gaps, 2 do
    if tonumber(gaps[n]) < number and number < tonumber(gaps[n + 1]) then
      return true
    end
  end
  return false
end

operations['replay'] = function()
  local namespace, after, to, count = arg(), tonumber(arg()), arg(), tonumber(arg())
  local rooms, bytes = {}, 0
  if is_in_gap(after) then
    return { 'incomplete' }
  end
  for n = 1, count do
    local room, joined, kind, id = arg(), tonumber(arg()), arg(), arg()
    local since = math.max(after, joined)
    local logged
    logged, bytes = entries(log_of(namespace, room), since, tonumber(to), bytes, limits[REPLAY_BYTES])
    if not logged then
      return { 'incomplete' }
    end
    local latest, items = newest_of(namespace, room, kind, id, since, to)
    rooms[n] = { logged, latest, items }
  end
  return { 'done', rooms, int(last) }
end

-- The events of a room after a number, and the bytes so far; nil if some of them are gone. What a user has read meanwhile is
-- not in any log: the count of unread notifications is an event of its own.
local function missed_in(namespace, room, kind, id, after, bytes, most_bytes)
  local logged
  logged, bytes = entries(log_of(namespace, room), after, math.huge, bytes, most_bytes)
  if not logged then
    return nil, bytes
  end
  local latest, items = newest_of(namespace, room, kind, id, after, '+inf')
  local unread = {}
  if kind == 'inbox' then
    local _, _, ids = inbox_of(id)
    local count = call('SCARD', ids)
    unread = { id, number(), count }
  end
  return { 1, logged, latest, items, unread }, bytes
end

-- The events of rooms that a node has not heard since a number. A room with a foreign value has no row.
operations['catch up'] = function()
  local after, most_bytes, count = tonumber(arg()), tonumber(arg()), tonumber(arg())
  local rooms, bytes = {}, 0
  for n = 1, count do
    local namespace, room, kind, id = arg(), arg(), arg(), arg()
    local done, row, so_far = pcall(missed_in, namespace, room, kind, id, after, bytes, most_bytes)
    if done then
      bytes = so_far
    end
    rooms[n] = done and row or { 0 }
  end
  return { 'done', rooms }
end

-- Leases. A node counts as running until its lease ends, by the clock of Redis.

local function time_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_running(node)
  return tonumber(call('ZSCORE', P .. 'nodes', node) or '0') >= time_ms() - LEASE
end

local function revocations_version()
  return call('HGET', P .. 'revocations', 'version') or '0'
end

-- Sessions. A session is its node's: what another node does with it has no effect, until that node claims it.

local function is_others(hash)
  local node = call('HGET', hash, 'node')
  return node and node ~= NODE
end

operations['save session'] = function()
  local key, since, record = arg(), arg(), arg()
  local hash = P .. 'session:' .. key
  if not is_others(hash) then
    call('HSET', hash, 'record', record, 'since', since, 'node', NODE)
    call('HDEL', hash, 'left', 'own')
    call('PEXPIRE', hash, texts[SESSION_TTL])
    call('ZADD', P .. 'sessions', NOW + limits[SESSION_TTL], key)
    call('ZREMRANGEBYSCORE', P .. 'sessions', '-inf', NOW)
  end
  return { 'done' }
end

operations['session left'] = function()
  local key, since = arg(), arg()
  local hash = P .. 'session:' .. key
  local known = call('HGET', hash, 'since')
  if known and not is_others(hash) then
    if tonumber(known) < tonumber(since) then
      call('HSET', hash, 'since', since)
    end
    call('HSET', hash, 'left', NOW_TEXT)
    call('PEXPIRE', hash, texts[AWAY_TTL])
    call('ZADD', P .. 'sessions', NOW + limits[AWAY_TTL], key)
  end
  return { 'done' }
end

operations['confirmed'] = function()
  call('HSET', P .. 'node:' .. NODE, 'confirmed', arg())
  return { 'done' }
end

-- Of a session that was another node's, its node is kept: a late save of the other node must not bring it back.
operations['forget session'] = function()
  local key = arg()
  local hash = P .. 'session:' .. key
  if not is_others(hash) then
    if call('HEXISTS', hash, 'claimed') == 1 then
      call('DEL', hash)
      call('HSET', hash, 'node', NODE)
      call('PEXPIRE', hash, LATEST_SAVE)
    else
      call('DEL', hash)
    end
    call('ZREM', P .. 'sessions', key)
  end
  return { 'done' }
end

-- The record, the number up to which its client has received everything, when the client was last connected if it is not
-- connected now, and whether it is this node's.
local function session_of(hash)
  local record, since, left, node = unpack(call('HMGET', hash, 'record', 'since', 'left', 'node'))
  if not record then
    return nil
  end
  if not left then
    -- The number that a node confirms is that of its connected clients.
    local confirmed, seen = unpack(call('HMGET', P .. 'node:' .. node, 'confirmed', 'seen'))
    if confirmed and tonumber(confirmed) > tonumber(since) then
      since = confirmed
    end
    if not is_running(node) then
      left = seen or '0'
    end
  end
  return record, since, left, node == NODE
end

operations['session'] = function()
  local record, since, left, is_own = session_of(P .. 'session:' .. arg())
  return { 'done', record or false, since, left or false, is_own and 1 or 0 }
end

operations['claim session'] = function()
  local key, sealed = arg(), arg()
  local hash = P .. 'session:' .. key
  local record, since, left, is_own = session_of(hash)
  if not record then
    return { 'done', false }
  end
  local node = call('HGET', hash, 'node')
  if not is_own and sealed ~= '' then
    if is_running(node) then
      call('PUBLISH', P .. 'to:' .. node, 'give ' .. key .. ' ' .. NODE .. ' ' .. sealed)
      return { 'asked' }
    end
  end
  local own = call('HGET', hash, 'own')
  if not is_own then
    left = left or NOW_TEXT
    call('HSET', hash, 'node', NODE, 'since', since, 'left', left, 'claimed', 1)
    call('HDEL', hash, 'own')
  end
  return { 'done', record, since, left or false, is_own and 1 or 0, own }
end

-- Gives a session to the node that has asked for it, if this node has it.
operations['hand over'] = function()
  local key, to, since, record, own = arg(), arg(), arg(), arg(), arg()
  local hash = P .. 'session:' .. key
  if record ~= '' and not is_others(hash) then
    call('HSET', hash, 'record', record, 'since', since, 'node', NODE, 'left', NOW_TEXT, 'own', own)
    call('PEXPIRE', hash, texts[AWAY_TTL])
  end
  call('PUBLISH', P .. 'to:' .. to, 'given ' .. key)
  return { 'done' }
end

operations['nothing'] = function()
  return { 'done' }
end

operations['usage'] = function()
  local sessions, keys = call('ZCARD', P .. 'sessions'), keys_in(P .. 'keys')
  -- Two fields are none.
  local revocations = math.max(0, call('HLEN', P .. 'revocations') - 2)
  return { 'done', call('ZCARD', P .. 'media'), sessions, keys, revocations }
end

-- Answers with the version of the revocations that the node must hold for its lease to be valid, and with the tags, addresses
-- and digests of rules of the running nodes.
operations['renew'] = function()
  local tag, address, rules = arg(), arg(), arg()
  local nodes, now = P .. 'nodes', time_ms()
  call('ZREMRANGEBYSCORE', nodes, '-inf', now - LEASE)
  if call('ZADD', nodes, now, NODE) == 1 then
    call('HSET', P .. 'node:' .. NODE, 'tag', tag, 'address', address)
    call('PUBLISH', P .. 'nodes', tag .. ' ' .. address)
  end
  if call('HGET', P .. 'node:' .. NODE, 'rules') ~= rules then
    call('HSET', P .. 'node:' .. NODE, 'rules', rules)
  end
  local running, addresses = call('ZRANGE', nodes, 0, -1), {}
  for n = 1, #running do
    local known = call('HMGET', P .. 'node:' .. running[n], 'tag', 'address', 'rules')
    addresses[n] = { known[1] or '', known[2] or '', known[3] or '' }
  end
  return { 'done', revocations_version(), addresses }
end

-- Whether the node is the one that ends items without news.
operations['watch'] = function()
  local watch = P .. 'watch'
  local holder = call('GET', watch)
  if holder and holder ~= NODE then
    return { 'done', 0 }
  end
  call('SET', watch, NODE, 'PX', 2 * LEASE)
  return { 'done', 1 }
end

-- The node stops: nobody waits for it.
operations['leave cluster'] = function()
  call('ZREM', P .. 'nodes', NODE)
  return { 'done' }
end

-- Revocations. The node decides on what it has read; another version of it is sent the new one. All nodes hear the change.

operations['revocations'] = function()
  return { 'done', call('HGETALL', P .. 'revocations') }
end

operations['revoke'] = function()
  local version, subject, value, removed, removed_value, floors = arg(), arg(), arg(), arg(), arg(), arg()
  local hash = P .. 'revocations'
  if revocations_version() ~= version then
    return { 'changed' }
  end
  version = call('HINCRBY', hash, 'version', 1)
  if value == '' then
    call('HDEL', hash, subject)
  else
    call('HSET', hash, subject, value)
  end
  if removed ~= '' then
    call('HDEL', hash, removed)
  end
  call('HSET', hash, 'floors', floors)
  local change = field(subject) .. field(value) .. field(removed) .. field(removed_value)
  call('PUBLISH', P .. 'revocations', version .. ' ' .. change .. floors)
  return { 'done', version }
end

-- The node holds all revocations up to a version, and has taken the identities of so many sockets for the last.
operations['hold'] = function()
  local version, sockets = arg(), arg()
  call('HSET', P .. 'node:' .. NODE, 'holds', version)
  if sockets ~= '0' then
    local revoked = P .. 'revoked:' .. version
    call('INCRBY', revoked, sockets)
    call('PEXPIRE', revoked, 60000)
  end
  return { 'done' }
end

-- How many running nodes do not hold a version yet, and how many sockets have lost their identities by it.
operations['lacking'] = function()
  local version = arg()
  local nodes, lacking = call('ZRANGEBYSCORE', P .. 'nodes', time_ms() - LEASE, '+inf'), 0
  for n = 1, #nodes do
    if tonumber(call('HGET', P .. 'node:' .. nodes[n], 'holds') or '0') < tonumber(version) then
      lacking = lacking + 1
    end
  end
  return { 'done', lacking, call('GET', P .. 'revoked:' .. version) or '0' }
end

-- The batch.

local function read_limits(text)
  if text ~= limits_text then
    limits, texts, limits_text = {}, {}, text
    for limit in string.gmatch(text, '%d+') do
      limits[#limits + 1] = tonumber(limit)
      texts[#limits] = limit
    end
  end
end

-- The operations whose answers are kept. If an answer is lost, the node sends the batch again, and nothing of it is
-- carried out twice.
local CHANGES = {
  room = true, media = true, notification = true, read = true, revoke = true, nothing = true,
  ['save session'] = true, ['session left'] = true, ['forget session'] = true, ['claim session'] = true, ['hand over'] = true, hold = true,
}

local function failed(reason)
  return { 'failed', reason }
end

-- The answers, and a text of what is given in their place if the batch comes again. Nearly all batches have numbers of events
-- only, which need no other form.
local function carry_out(count)
  local first, answers, again, are_numbers = last, {}, {}, true
  for n = 1, count do
    local name, arguments = arg(), tonumber(arg())
    local stop = at + arguments
    local done, answer = pcall(operations[name])
    if not done then
      answer = failed(type(answer) == 'table' and answer.err or tostring(answer))
    end
    answers[n] = answer
    again[n] = CHANGES[name] and answer or { 'lost' }
    are_numbers = are_numbers and type(again[n]) == 'string'
    at = stop
  end
  local last_text = int(last)
  if last ~= first then
    call('HSET', head, 'last', last_text)
  end
  local kept = are_numbers and 'n' .. table.concat(again, ' ') or 'm' .. cmsgpack.pack(again)
  return { answers, last_text }, last_text .. kept
end

-- The answers out of the text that was kept.
local function answered(text)
  local last_text, form, kept = string.match(text, '^(%d+)([nm])(.*)$')
  local answers = {}
  if form == 'm' then
    return { cmsgpack.unpack(kept), last_text }
  end
  for number in string.gmatch(kept, '%d+') do
    answers[#answers + 1] = number
  end
  return { answers, last_text }
end

local function apply(_, arguments)
  call, args, at = redis.call, arguments, 7
  P, NODE, NOW, NOW_TEXT = args[1], args[3], tonumber(args[5]), args[5]
  read_limits(args[6])
  head = P .. 'head'
  local known = call('HMGET', head, 'epoch', 'last')
  if known[1] ~= args[2] then
    return redis.error_reply('FENCE the order is another')
  end
  last = tonumber(known[2])
  local node, batch = P .. 'node:' .. NODE, args[4]
  local before = call('HMGET', node, 'batch', 'answer')
  local answer, again
  if before[1] == batch then
    answer = answered(before[2])
  elseif tonumber(before[1] or '0') > tonumber(batch) then
    -- It comes over a connection that was given up.
    return redis.error_reply('LATE a later batch was carried out')
  else
    answer, again = carry_out(tonumber(args[7]))
    call('HSET', node, 'batch', batch, 'answer', again, 'seen', NOW_TEXT)
  end
  if not before[1] or tonumber(batch) % 100 == 1 then
    -- A node sends more than a hundred batches in this time.
    call('PEXPIRE', node, 86400000)
  end
  call('PUBLISH', P .. 'to:' .. NODE, batch .. ' ' .. answer[2])
  return answer
end

redis.register_function('{name}', apply)
-- For batches that publish nothing: nodes stay nodes while the memory of Redis is full.
redis.register_function({ function_name = '{name}_full', callback = apply, flags = { 'allow-oom' } })
