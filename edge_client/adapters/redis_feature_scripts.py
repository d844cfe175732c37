"""The scripts that features run inside Redis. All compare fixed-width decimal digits, because Lua compares text by the locale.

They need Redis 5 or later to replicate their effects and 6.2 or later for what they call. What lies where, and why:
`redis_features` and `redis_feature_tier`.
"""

from __future__ import annotations

from typing import Final

from edge_client.adapters.redis_wire import Script

PUT_ENTRY: Final = Script.of("""
local held = redis.call('GETRANGE', KEYS[1], 0, 39)
if #held == 40 and not string.find(held, '%D') and held > ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2])
else redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3]) end
return 1
""")
"""`key; order, entry, lifetime in ms (0: none)`: 1 unless what is there has a greater order."""

_INDEX: Final = """
local magic = '\\0ccs-i1\\n'
local function trailer(held, at)
  local place = string.find(held, magic, at, true)
  if not place then return nil end
  local size, ends, length = string.match(held, '^(%d%d%d%d%d%d%d%d)(%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d)(%d%d%d)', place + 8)
  if not size then return place, 0, '', place + 8, place + 7 end
  return place, tonumber(size), ends, place + 35, place + 34 + tonumber(length)
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%016.0f', now_ms)
"""
"""An index is a string: sixteen digits, the instant at which to tidy it up, then a row for each block, the oldest first.

A row is the marks, then a trailer: magic, eight digits of how many octets of marks, sixteen of when the block ends, three of how long
its name is, the name. Instants are milliseconds of the server's own clock. Looking for a mark is one search through the string; the
trailer that follows it says what it is of. `trailer` returns where it begins, those two, and where the name begins and ends.
"""

PUT_BLOCK: Final = Script.of(
    """
local held = redis.call('GET', KEYS[2])
if held and #held == 20 and not string.find(held, '%D') and held >= ARGV[1] then return 0 end
"""
    + _INDEX
    + """
local left = tonumber(ARGV[2])
if left > 0 then
  local tidy_at = redis.call('GETRANGE', KEYS[1], 0, 15)
  local rest, limit = redis.call('PTTL', KEYS[1]), tonumber(ARGV[4])
  local name, ends = string.match(KEYS[4], '}:b:(.*)$'), string.format('%016.0f', now_ms + left)
  local row = ARGV[6] .. magic .. string.format('%08d', #ARGV[6]) .. ends .. string.format('%03d', #name) .. name
  if #tidy_at == 16 and not string.find(tidy_at, '%D') and tidy_at > now
    and redis.call('STRLEN', KEYS[1]) + #row <= limit then
    redis.call('APPEND', KEYS[1], row)
  else
    local index, first = redis.call('GETRANGE', KEYS[1], 0, -1), 17
    local kept = #index + #row > limit and limit / 2 or limit
    while first <= #index do
      local place, _, until_then, _, last = trailer(index, first)
      if place and until_then > now and #index - first + #row < kept then break end
      first = place and last + 1 or #index + 1
    end
    redis.call('SET', KEYS[1], ends .. string.sub(index, first) .. row)
  end
  redis.call('PEXPIRE', KEYS[1], math.max(rest, left))
end
redis.call('INCRBY', KEYS[3], ARGV[5])
if left > 0 then redis.call('SET', KEYS[4], ARGV[7], 'PX', left) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return tonumber(ARGV[5])
"""
)
"""`index, marker, counter, block; sequence, lifetime and marker's in ms, octets of index kept, count, marks, payload`: what
was counted.

What may fail by the type of what lies there comes first, so that a block is there whole or not at all. Once in a lifetime, and when
the index is too long, the oldest rows go: what has ended, and what is beyond half the limit.
"""

FIND: Final = Script.of(
    _INDEX
    + """
local limit, blocks, names, unreadable, is_cut = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, 0, 0
local held = redis.call('GETRANGE', KEYS[1], -limit, -1)
for wanted = 3, #ARGV do
  local found = {}
  local at = string.find(held, ARGV[wanted], 1, true)
  while at do
    local place, size, ends, first, last = trailer(held, at)
    if place and ends == '' then
      unreadable = unreadable + 1
    elseif place and (place - at) % 4 == 0 and place - at <= size then
      if ends > now then found[#found + 1] = string.sub(held, first, last) end
      at = last
    end
    at = place and string.find(held, ARGV[wanted], at + 1, true)
  end
  if #found > blocks then is_cut = 1 end
  for index = #found, math.max(1, #found - blocks + 1), -1 do names[#names + 1] = found[index] end
end
return {is_cut, unreadable, names}
"""
)
"""`index; octets looked at, blocks named of a mark, marks...`: whether some were left out, strange rows, names."""

HOLD: Final = Script.of("""
local held = redis.call('GETRANGE', KEYS[1], 0, 75)
if #held == 76 and not string.find(string.sub(held, 1, 60), '%D') then
  local order, offered = string.sub(held, 1, 40), string.sub(ARGV[1], 1, 40)
  if order > offered then return 0 end
  if order == offered and string.sub(held, 61) == string.sub(ARGV[1], 61)
    and string.sub(held, 41, 60) >= string.sub(ARGV[1], 41, 60) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
return 1
""")
"""`key; order, known-at and boot, entry, lifetime in ms`: 1 unless what is there is newer, or the same known later."""

DROP: Final = Script.of("""
local held = redis.call('GETRANGE', KEYS[1], 0, 19)
if #held == 20 and not string.find(held, '%D') and held >= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
"""`key; stamp`: the key is gone unless what is there is of that stamp or later."""
