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

PUT_BLOCK: Final = Script.of("""
local held = redis.call('GET', KEYS[2])
if held and #held == 20 and not string.find(held, '%D') and held >= ARGV[1] then return 0 end
local left = tonumber(ARGV[2])
if left > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, item in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2)) do
    if (tonumber(item[2][4]) or 0) <= now then redis.call('XDEL', KEYS[1], item[1]) end
  end
  local rest = redis.call('PTTL', KEYS[1])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*',
    'b', string.match(KEYS[4], '}:b:(.*)$'), 'e', string.format('%.0f', now + left), 'm', ARGV[6])
  if rest < left then redis.call('PEXPIRE', KEYS[1], left) end
end
redis.call('INCRBY', KEYS[3], ARGV[5])
if left > 0 then redis.call('SET', KEYS[4], ARGV[7], 'PX', left) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return tonumber(ARGV[5])
""")
"""`index, marker, counter, block; sequence, lifetime and marker's in ms, items kept, count, marks, payload`: what was counted.

What may fail by the type of what lies there comes first, so that a block is there whole or not at all. Of the index's
oldest items, two that have expired go for each one that comes: it shrinks to what lives, by the server's own clock.
"""

FIND: Final = Script.of("""
local function has(marks, mark)
  local at = string.find(marks, mark, 1, true)
  while at and at % 4 ~= 1 do at = string.find(marks, mark, at + 1, true) end
  return at
end
local limit, blocks, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), #ARGV - 2
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local names, counts, seen, unreadable, last = {}, {}, 0, 0, '+'
while seen < limit and wanted > 0 do
  local items = redis.call('XREVRANGE', KEYS[1], last, '-', 'COUNT', 64)
  for _, item in ipairs(items) do
    local name, ends, marks = item[2][2], tonumber(item[2][4]), item[2][6]
    if not (ends and marks) then unreadable = unreadable + 1
    elseif ends > now then
      local hit = false
      for place = 3, #ARGV do
        local count = counts[place] or 0
        if count < blocks and has(marks, ARGV[place]) then
          hit = true
          counts[place] = count + 1
          if count + 1 == blocks then wanted = wanted - 1 end
        end
      end
      if hit then names[#names + 1] = name end
    end
  end
  if #items < 64 then return {0, unreadable, names} end
  seen = seen + #items
  last = '(' .. items[#items][1]
end
return {1, unreadable, names}
""")
"""`index; items looked at, blocks found of a mark, marks...`: whether it ended at a bound, strange items, names from the newest."""

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
