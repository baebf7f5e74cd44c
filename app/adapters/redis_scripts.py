"""The names of a clinic's keys in Redis, and the scripts that change them in one step.

A script touches the keys of one clinic only. Their names share the hash tag ``{<clinicId>}``, hence one slot of a
cluster. Works on Redis 6.2 and later.
"""

from __future__ import annotations

from typing import Final

from tenants.clinic import ClinicId


def session_key(clinic_id: ClinicId, session_id: str) -> str:
    """Hash: who owns a session (``epoch``, ``task``) and how far it got (``seq``, ``base``, ``told``: see ANNOUNCE)."""
    return f"clinic:{{{clinic_id}}}:session:{session_id}"


def pending_key(clinic_id: ClinicId, session_id: str) -> str:
    """Sorted set: sealed finals that may not yet be in the archive, scored with their ``seq``."""
    return f"clinic:{{{clinic_id}}}:session:{session_id}:pending"


def log_key(clinic_id: ClinicId) -> str:
    """Stream: the clinic's latest events, for replay. An entry's id is its cursor."""
    return f"clinic:{{{clinic_id}}}:log"


def events_channel(clinic_id: ClinicId) -> str:
    """Channel: the same events as they happen, in the form that ``redis_log.parse_message`` reads."""
    return f"clinic:{{{clinic_id}}}:events"


def sessions_key(clinic_id: ClinicId) -> str:
    """Sorted set of session ids, all with score 0: in the order of their names, which for a UUIDv7 is that of time."""
    return f"clinic:{{{clinic_id}}}:sessions"


def rows_key(clinic_id: ClinicId) -> str:
    """Hash: session id to sealed row. Apart from the session's own hash, which expires while the row must not."""
    return f"clinic:{{{clinic_id}}}:rows"


def reservation_key(clinic_id: ClinicId, digest: str) -> str:
    """What an idempotency key stands for; ``digest`` because the key itself is the caller's text."""
    return f"clinic:{{{clinic_id}}}:idempotency:{digest}"


def ticket_key(clinic_id: ClinicId, ticket_id: str) -> str:
    """Set once an observer has entered with the ticket."""
    return f"clinic:{{{clinic_id}}}:ticket:{ticket_id}"


INDEX_COMPLETE_KEY: Final = "kikitori:index:complete"
"""Set to the name of the rebuilding once the index has been rebuilt from the archive. It is of no clinic, and goes when Redis is emptied."""

_EMIT: Final = """
local function emit(log, publish, channel, maxlen, session, kind, seq, epoch, body)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  local prev = last[1] and last[1][1] or '0-0'
  local cursor = redis.call('XADD', log, 'MAXLEN', '~', maxlen, '*', 'prev', prev,
    'session', session, 'kind', kind, 'seq', seq, 'epoch', epoch, 'body', body)
  local head = table.concat({cursor, prev, session, kind, seq, epoch}, ' ')
  redis.call(publish, channel, head .. '\\n' .. body)
end
"""
"""``publish`` is PUBLISH, in a cluster SPUBLISH."""

ANNOUNCE: Final = (
    _EMIT
    + """
local epoch, seq, session, task, ttl, stands = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[9]
local owner = redis.call('HMGET', KEYS[1], 'epoch', 'told')
if owner[1] and tonumber(owner[1]) > tonumber(epoch) then return false end
local held = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. seq, '+inf', 'WITHSCORES')
local answer, last = {owner[1] or '', owner[2] or ''}, tonumber(seq)
for place = 1, #held, 2 do
  if tonumber(held[place + 1]) ~= last + 1 then break end
  last = last + 1
  answer[#answer + 1] = held[place]
end
local text = string.format('%.0f', last)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', seq)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. text, '+inf')
redis.call('HSET', KEYS[1], 'epoch', epoch, 'seq', text, 'base', seq, 'task', task)
if owner[2] and tonumber(owner[2]) > last then
  redis.call('HSET', KEYS[1], 'told', text)
  emit(KEYS[3], ARGV[6], ARGV[7], ARGV[8], session, 'rewound', text, epoch, '')
elseif not owner[1] and tonumber(epoch) > 1 then
  local kept = stands ~= '' and tonumber(stands) < last and stands or text
  emit(KEYS[3], ARGV[6], ARGV[7], ARGV[8], session, 'rewound', kept, epoch, '')
end
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('EXPIRE', KEYS[2], ttl)
return answer
"""
)
"""KEYS session, pending, log; ARGV epoch, seq, session id, task, ttl, PUBLISH, channel, log length, the last
final of older owners that stands (empty: the last of now). Answers the epoch and ``told`` as they were (empty: none) and the
bodies of the finals adopted, or nil: a newer epoch.

``base`` keeps the announced ``seq``. What lies beyond it is here, so that a repeated commit of it is a success; a
commit that reaches below it was never stored here, and must not be taken for a repeat. ``told`` is the last final that
was put into the clinic's log, whatever was announced since. A log that knows no owner was emptied, and cannot know what
it told for an older one: it says what stands.
"""

COMMIT: Final = (
    _EMIT
    + """
local epoch, first, session = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local keep, ttl, publish, channel, maxlen = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local owner = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'base')
if not (owner[1] and owner[2] and owner[3]) then return 'unknown' end
local owned_by, seq, base = tonumber(owner[1]), tonumber(owner[2]), tonumber(owner[3])
if owned_by > epoch then return 'stale' end
if owned_by < epoch or first <= base or first > seq + 1 then return 'unknown' end
local last = first + (#ARGV - 8) / 2 - 1
for number = seq + 1, last do
  local place = 9 + 2 * (number - first)
  local text = string.format('%.0f', number)
  emit(KEYS[3], publish, channel, maxlen, session, 'final', text, ARGV[place], ARGV[place + 1])
  redis.call('ZADD', KEYS[2], text, ARGV[place + 1])
end
if last > seq then
  local text = string.format('%.0f', last)
  redis.call('HSET', KEYS[1], 'seq', text, 'told', text)
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(keep + 1))
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('EXPIRE', KEYS[2], ttl)
return 'committed'
"""
)
"""KEYS session, pending, log; ARGV epoch, first seq, session id, pending length, ttl, PUBLISH, channel, log length, and for
each final its own epoch and its body."""

PENDING: Final = "return redis.call('ZRANGE', KEYS[1], 0, -1)"
"""KEYS pending. Answers the bodies in order of their ``seq``."""

ARCHIVED: Final = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
"""
"""KEYS session, pending; ARGV epoch, seq, ttl. Another epoch than the owner's changes nothing."""

APPEND: Final = (
    _EMIT
    + """
emit(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], '0', '0', ARGV[6])
return 1
"""
)
"""KEYS log; ARGV PUBLISH, channel, log length, session id, kind, body."""

ROWS: Final = """
local ids = redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local rows = {}
for place, id in ipairs(ids) do rows[place] = redis.call('HGET', KEYS[2], id) end
return {ids, rows}
"""
"""KEYS sessions, rows; ARGV newest, oldest (bounds of ZREVRANGEBYLEX), how many. Answers ids, and their rows or nil."""

PUT_ROW: Final = """
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call(ARGV[3] == '1' and 'HSET' or 'HSETNX', KEYS[2], ARGV[1], ARGV[2])
return 1
"""
"""KEYS sessions, rows; ARGV session id, row, ``1`` to replace one that is there."""

RESERVE: Final = """
local known = redis.call('GET', KEYS[1])
if ARGV[3] == '1' or not known then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return known
"""
"""KEYS reservation; ARGV value, seconds, ``1`` to set it whatever stands there. Answers what stood there."""
