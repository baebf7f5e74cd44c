"""The names of stream slots in Redis, and the scripts that change them in one step.

All names share the hash tag ``{transcribe}``, hence one slot of a cluster: a waiter may be served in any of several
regions, and that is decided at once. Works on Redis 6.2 and later. Times are Redis's own, in milliseconds since 1970.

A lease or a waiter is named ``<holder>:<number>:<region>,<region>…`` (the number has 12 digits: of one holder's waiters with
equal scores the one that asked first goes first). A *holder* is one life of one process.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "kikitori:{transcribe}:"

SETTLING_KEY: Final = f"{PREFIX}settling"
"""There while holders come back to a Redis in which none was alive, and nothing new is given."""

HOLDERS_KEY: Final = f"{PREFIX}holders"
"""Sorted set: holder, scored with when it counts as dead unless it is heard of before."""


def queue_key(region: str) -> str:
    """Sorted set: waiter, scored with its turn; it stands in the queue of each of its regions. A dead holder's are taken out."""
    return f"{PREFIX}{region}:queue"


def slots_key(region: str) -> str:
    """Sorted set: lease, scored with when it expires."""
    return f"{PREFIX}{region}:slots"


def starts_key(region: str) -> str:
    """Sorted set: starts within the last second or so, scored with when they were allowed."""
    return f"{PREFIX}{region}:starts"


def score(rank: int, since: float) -> float:
    """A waiter's turn as one number: the rank above all, then the age in milliseconds (of which a double keeps thousandths)."""
    return rank * 1e13 + min(max(since, 0.0) * 1000.0, 9.9e12)


_NOW: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local past = string.format('(%.0f', now)
"""

RENEW: Final = (
    _NOW
    + """
local holder, alive, lease, settle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if settle > 0 and redis.call('ZCOUNT', KEYS[2], now, '+inf') == 0 then
  redis.call('SET', KEYS[1], 1, 'PX', settle)
end
redis.call('ZADD', KEYS[2], now + alive, holder)
redis.call('PEXPIRE', KEYS[2], alive)
local at, taken = 5, {}
for place = 3, #KEYS do
  local last = at + tonumber(ARGV[at])
  for first = at + 1, last, 1000 do
    local entries = {}
    for number = first, math.min(first + 999, last) do
      entries[#entries + 1] = now + lease
      entries[#entries + 1] = ARGV[number]
    end
    redis.call('ZADD', KEYS[place], unpack(entries))
  end
  at = last + 1
  redis.call('ZREMRANGEBYSCORE', KEYS[place], '-inf', past)
  redis.call('PEXPIRE', KEYS[place], lease)
  taken[#taken + 1] = redis.call('ZCARD', KEYS[place])
end
return taken
"""
)
"""KEYS settling, holders, slots of each region; ARGV holder, its life, a lease's life, settling time, and for each region the
number of leases and their names. Enters every lease anew, whether it was known or not, and with them the holder. Answers how
many are taken in each region.
"""

TURN: Final = (
    _NOW
    + """
local holder, alive, lease, window = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('ZSCORE', KEYS[2], holder)
if not known or tonumber(known) < now then return false end
redis.call('ZADD', KEYS[2], now + alive, holder)
redis.call('PEXPIRE', KEYS[2], alive)

local at, regions, named = 6, {}, {}
for number = 1, tonumber(ARGV[5]) do
  local first = 3 * number
  local region = {place = number - 1, queue = KEYS[first], slots = KEYS[first + 1], starts = KEYS[first + 2]}
  region.limit, region.rate, region.restarts = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  regions[number], named[ARGV[at]] = region, region
  at = at + 4
end
local function start(region, name)
  redis.call('ZADD', region.starts, now, name)
  redis.call('PEXPIRE', region.starts, window)
  region.tokens = region.tokens - 1
end
local function each_wanted(waiter)
  return string.gmatch(string.match(waiter, '[^:]*$'), '[^,]+')
end
local function leave(waiter)
  for name in each_wanted(waiter) do
    if named[name] then redis.call('ZREM', named[name].queue, waiter) end
  end
end

local gone = tonumber(ARGV[at])
for number = at + 1, at + gone do
  leave(ARGV[number])
  for _, region in ipairs(regions) do redis.call('ZREM', region.slots, ARGV[number]) end
end
at = at + gone + 1

if redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', past) > 0 then
  local living = {}
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do living[name] = true end
  for _, region in ipairs(regions) do
    for _, waiter in ipairs(redis.call('ZRANGE', region.queue, 0, -1)) do
      if not living[string.match(waiter, '^[^:]+')] then redis.call('ZREM', region.queue, waiter) end
    end
  end
end

local given = {}
while at < #ARGV do
  local waiter, had = ARGV[at + 1], nil
  for _, region in ipairs(regions) do
    if redis.call('ZSCORE', region.slots, waiter) then had = region end
  end
  if had then
    redis.call('ZADD', had.slots, now + lease, waiter)
    given[#given + 1], given[#given + 2] = waiter, had.place
  else
    for name in each_wanted(waiter) do redis.call('ZADD', named[name].queue, ARGV[at], waiter) end
  end
  at = at + 2
end

local settling = redis.call('EXISTS', KEYS[1])
for _, region in ipairs(regions) do
  redis.call('PEXPIRE', region.queue, alive)
  redis.call('ZREMRANGEBYSCORE', region.slots, '-inf', past)
  redis.call('ZREMRANGEBYSCORE', region.starts, '-inf', string.format('%.0f', now - window))
  region.taken = redis.call('ZCARD', region.slots)
  region.tokens = region.rate - redis.call('ZCARD', region.starts)
  region.places = settling == 1 and 0 or region.limit - region.taken
  region.restarted = math.max(0, math.min(region.restarts, region.tokens))
  for number = 1, region.restarted do
    start(region, string.format('%s:restart:%s.%s:%d', holder, clock[1], clock[2], number))
  end
  region.batch, region.at, region.from = {}, 1, 0
end

local seen = {}
local function open(region) return region and region.places > 0 and region.tokens > 0 end
local function head(region)
  while true do
    if region.at > #region.batch then
      region.batch = redis.call('ZRANGE', region.queue, region.from, region.from + 31, 'WITHSCORES')
      region.at, region.from = 1, region.from + 32
      if #region.batch == 0 then return nil end
    end
    local waiter = region.batch[region.at]
    if not seen[waiter] then return waiter, tonumber(region.batch[region.at + 1]) end
    region.at = region.at + 2
  end
end
local function serve(waiter)
  for name in each_wanted(waiter) do
    local region = named[name]
    if open(region) then
      region.places = region.places - 1
      if string.match(waiter, '^[^:]+') ~= holder then
        region.tokens = region.tokens - 1
        return
      end
      start(region, waiter)
      redis.call('ZADD', region.slots, now + lease, waiter)
      redis.call('PEXPIRE', region.slots, lease)
      region.taken = region.taken + 1
      given[#given + 1], given[#given + 2] = waiter, region.place
      return
    end
  end
end
while true do
  local best, best_score
  for _, region in ipairs(regions) do
    if open(region) then
      local waiter, score = head(region)
      if waiter and (not best or score < best_score or (score == best_score and waiter < best)) then
        best, best_score = waiter, score
      end
    end
  end
  if not best then break end
  seen[best] = true
  serve(best)
end
for number = 1, #given, 2 do leave(given[number]) end

local answer = {given}
for _, region in ipairs(regions) do
  local free = math.max(0, math.min(region.places, region.tokens))
  answer[#answer + 1] = {region.taken, free, redis.call('ZCARD', region.queue), region.restarted}
end
return answer
"""
)
"""KEYS settling, holders, and for each region queue, slots and starts; ARGV holder, its life, a lease's life, the rate's window,
the number of regions, for each one its name, streams, starts and restarts asked for; the number of names that are gone and
they; then score and name of each new waiter.

Answers nil when the holder is not known (it must RENEW first), else: the waiters of this holder that have a lease now, each
followed by its region's number from 0, and for each region how many slots are taken, how many more sessions it would take at
once, how many wait for it, and how many restarts were granted.

Places go to waiters in the order of their turns, each in the first of its regions that has one. What would go to another
holder's waiter is left for it: that holder comes for it with its own next turn. Only waiters that can be served are looked
at, so a turn costs what it gives, however many wait. A waiter that comes anew and has a lease was served by a turn whose
answer was lost.
"""
