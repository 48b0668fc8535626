-- Each query is named by the line above it and described by the one below. Those that run in a handler's transaction
-- name the schema of every function: the search_path is the application's there.

-- name: insert
-- Insert a batch in (source, id) order, so that overlapping batches cannot deadlock; nothing if the group has a newer
-- application. Skips events with failed attempts that the caller has not counted; `attempts` is only read if not empty.
insert into {schema}.events (
    source, id, type, subject, time, time_as_given, datacontenttype, dataschema, data, data_bytes, extensions,
    journal, epoch, "offset", listener, attempts, accepted_at)
select e.source, e.id, e.type, e.subject, e.time::timestamptz, {schema}.time_as_given(e.time),
    e.datacontenttype, e.dataschema, e.data, pg_catalog.decode(e.data_base64, 'base64'), e.extensions::jsonb,
    %(journal)s, %(epoch)s, e."offset", %(listener)s, e.attempts,
    timestamptz 'epoch' + e.at_us * interval '1 microsecond'
from rows from (
    pg_catalog.json_to_recordset(%(events)s) as (
        source text, id text, type text, subject text, time text,
        datacontenttype text, dataschema text, data jsonb, data_base64 text),
    pg_catalog.unnest(%(offsets)s::bigint[]), pg_catalog.unnest(%(attempts)s::integer[]),
    pg_catalog.unnest(%(at_us)s::bigint[]), pg_catalog.unnest(%(extensions)s::text[])
) as e (source, id, type, subject, time, datacontenttype, dataschema, data, data_base64,
        "offset", attempts, at_us, extensions)
-- rule: a replaced application inserts nothing
where (%(revision)s < 0 or %(revision)s = (select pg_catalog.max(revision) from {schema}.groups))
    and (not (select exists (select from {schema}.attempts))
         or not exists (
             select from {schema}.attempts a
             where a.source = e.source and a.id = e.id and a.attempts >= e.attempts))
order by e.source collate "C", e.id collate "C"
on conflict do nothing
returning "offset"

-- name: copy
-- As insert, but all or none: the caller sends no rows unless the first statement returns true. Two statements of one
-- message are one transaction.
select (%(revision)d < 0 or %(revision)d = (select pg_catalog.max(revision) from {schema}.groups))
    and not exists (select from {schema}.attempts);
copy {schema}.events (
    source, id, type, data, "offset", subject, time, time_as_given, datacontenttype, dataschema,
    accepted_at, journal, epoch, listener, attempts)
from stdin (delimiter e'\x1f', null e'\x1d')

-- name: begin_attempt
-- The same for one event whose transaction continues. Returns whether the row is new, and the server process.
select {schema}.begin_attempt(%(event)s, %(extensions)s, %(journal)s, %(epoch)s, %(offset)s, %(listener)s,
    %(attempts)s, %(at_us)s, %(revision)s), pg_catalog.pg_backend_pid()

-- name: compare
-- Compare arrivals that were not inserted with the rows of their identities.
select w."offset",
    e.epoch = %(epoch)s and e."offset" = w."offset" as same_place,
    e.type = w.type
        and e.data is not distinct from w.data
        and e.data_bytes is not distinct from pg_catalog.decode(w.data_base64, 'base64') as same_content
from rows from (
    pg_catalog.json_to_recordset(%(events)s) as (source text, id text, type text, data jsonb, data_base64 text),
    pg_catalog.unnest(%(offsets)s::bigint[])
) as w (source, id, type, data, data_base64, "offset")
-- rule: a repeated arrival ends only if its identity has a row
join {schema}.events e on e.source = w.source and e.id = w.id

-- name: failed_before
-- The failed attempts of events that were not inserted, and in how many seconds the next is due.
select w."offset", a.attempts, greatest(0, extract(epoch from a.next_at - pg_catalog.clock_timestamp()))::float8, a.error
from rows from (
    pg_catalog.unnest(%(sources)s::text[]), pg_catalog.unnest(%(ids)s::text[]),
    pg_catalog.unnest(%(offsets)s::bigint[]), pg_catalog.unnest(%(attempts)s::integer[])
) as w (source, id, "offset", attempts)
join {schema}.attempts a on a.source = w.source and a.id = w.id
where a.attempts >= w.attempts

-- name: count_failure
-- Count a failed attempt, at least up to the caller's count. A failure that is written again, because the answer was
-- lost, counts once. Writes nothing for an event that has ended.
insert into {schema}.attempts as a (source, id, type, attempts, error, failures, listener, next_at)
select %(source)s, %(id)s, %(type)s, %(attempts)s, %(error)s, array[%(failure)s::text], %(listener)s,
    clock_timestamp() + %(delay_s)s * interval '1 second'
where not exists (select from {schema}.events where source = %(source)s and id = %(id)s)
on conflict (source, id) do update
set attempts = case
        -- rule: a failed attempt that is written again counts once
        when a.failures @> excluded.failures then a.attempts
        else greatest(a.attempts + 1, excluded.attempts)
    end,
    failures = case when a.failures @> excluded.failures then a.failures else a.failures || excluded.failures end,
    error = excluded.error, listener = excluded.listener,
    failed_at = clock_timestamp(), next_at = excluded.next_at
returning attempts

-- name: end_attempts
-- The event ends: delete the count of its failed attempts, and return it.
delete from {schema}.attempts where source = %(source)s and id = %(id)s returning attempts

-- name: prune_attempts
-- Delete counts that were written while another listener ended the event.
delete from {schema}.attempts a using {schema}.events e where a.source = e.source and a.id = e.id

-- name: prune_overdue_attempts
-- Delete the counts of events that are not attempted any more, because their journal or a part of it is gone.
delete from {schema}.attempts where next_at < clock_timestamp() - %(overdue_s)s * interval '1 second'

-- name: retrying
-- Events that wait for their next attempt, the soonest first, after the last of the previous page.
select a.source, a.id, a.type, a.attempts, a.error, a.listener, a.failed_at, a.next_at
from {schema}.attempts a
where (%(before_at)s::timestamptz is null
       or (a.next_at, a.source, a.id) > (%(before_at)s, %(before_source)s::text, %(before_id)s::text))
    and not exists (select from {schema}.events e where e.source = a.source and e.id = a.id)
order by a.next_at, a.source, a.id
limit %(limit)s

-- name: compare_place
-- Whether the row of an identity came from this place.
select epoch = %(epoch)s and "offset" = %(offset)s from {schema}.events where source = %(source)s and id = %(id)s

-- name: keep_conflicts
-- Ordered, so that listeners that insert the same conflicts cannot deadlock.
insert into {schema}.conflicts (source, id, journal, epoch, "offset", raw, listener)
select c.source, c.id, %(journal)s, %(epoch)s, c."offset", c.raw, %(listener)s
from rows from (
    pg_catalog.unnest(%(sources)s::text[]), pg_catalog.unnest(%(ids)s::text[]),
    pg_catalog.unnest(%(offsets)s::bigint[]), pg_catalog.unnest(%(raws)s::bytea[])
) as c (source, id, "offset", raw)
order by c."offset"
on conflict do nothing

-- name: mark_dead
update {schema}.events set status = 'dead' where source = %(source)s and id = %(id)s

-- name: keep_dead_letter
insert into {schema}.dead_letters (source, id, type, error, trace, attempts, raw, listener)
values (%(source)s, %(id)s, %(type)s, %(error)s, %(trace)s, %(attempts)s, %(raw)s, %(listener)s)

-- name: insert_dead
-- The row of an event whose payload PostgreSQL refuses: the payload is only in dead_letters.raw.
insert into {schema}.events (source, id, type, status, journal, epoch, "offset", listener, attempts, accepted_at)
select %(source)s, %(id)s, %(type)s, 'dead', %(journal)s, %(epoch)s, %(offset)s, %(listener)s, %(attempts)s,
    timestamptz 'epoch' + %(at_us)s * interval '1 microsecond'
where %(revision)s < 0 or %(revision)s = (select max(revision) from {schema}.groups)
on conflict do nothing
returning "offset"

-- name: unlogged
-- A listener's dead letters that are not in the dead-letter log yet, oldest first.
select source, id, error, attempts, raw, died_at, listener from {schema}.dead_letters
where listener = %(listener)s and logged_at is null
order by died_at limit %(limit)s

-- name: mark_logged
-- Locks rows in the same order as an operator's change.
with filed as materialized (
    select source, id from {schema}.dead_letters
    where logged_at is null and (source, id) in (select * from unnest(%(sources)s::text[], %(ids)s::text[]))
    order by source, id
    for update)
update {schema}.dead_letters d set logged_at = clock_timestamp()
from filed where d.source = filed.source and d.id = filed.id

-- name: begin_sending
-- Dead letters from before this time are never sent, later ones always.
insert into {schema}.sending default values on conflict do nothing

-- name: claim_unforwarded
-- Waits for no lock, and keeps no row locked while its dead letter is sent.
with due as (
    select source, id from {schema}.dead_letters
    where sent_at is null and discarded_at is null
        and died_at >= (select began_at from {schema}.sending)
        and (listener = %(listener)s or died_at < clock_timestamp() - %(others_after_s)s * interval '1 second')
        and (send_claimed_at is null
             or send_claimed_at < clock_timestamp() - %(others_after_s)s * interval '1 second')
    order by died_at limit %(limit)s
    for update skip locked
)
update {schema}.dead_letters d set send_claimed_at = clock_timestamp()
from due where d.source = due.source and d.id = due.id
returning d.source, d.id, d.error, d.attempts, d.raw, d.died_at, d.listener

-- name: mark_forwarded
-- Skips rows that another session has locked, such as the writer of the dead-letter log: see mark_one_sent.
update {schema}.dead_letters set sent_at = clock_timestamp()
where (source, id) in (
    select source, id from {schema}.dead_letters
    where (source, id) in (select * from unnest(%(sources)s::text[], %(ids)s::text[]))
    for update skip locked)
returning source, id

-- name: mark_one_sent
update {schema}.dead_letters set sent_at = clock_timestamp() where source = %(source)s and id = %(id)s

-- name: release_unforwarded
-- Skips rows that another session has locked; they can be claimed again a little later.
update {schema}.dead_letters set send_claimed_at = null
where (source, id) in (
    select source, id from {schema}.dead_letters
    where (source, id) in (select * from unnest(%(sources)s::text[], %(ids)s::text[]))
    for update skip locked)

-- name: count_unforwarded
select count(*) from {schema}.dead_letters
where sent_at is null and discarded_at is null and died_at >= (select began_at from {schema}.sending)

-- name: meet_journal
-- The update changes nothing: it returns the existing row, also one that another session has just inserted.
insert into {schema}.journals (journal, key_hash) values (%(journal)s, %(key_hash)s)
on conflict (journal) do update set journal = excluded.journal
returning key_hash

-- name: load_cursor
select epoch, "offset", epochs from {schema}.cursors where journal = %(journal)s

-- name: lock_cursor
-- Returns nothing while another listener has the row locked.
select epoch, "offset", epochs from {schema}.cursors where journal = %(journal)s for update skip locked

-- name: lock_cursor_patiently
-- As lock_cursor, but waits for the lock.
select epoch, "offset", epochs from {schema}.cursors where journal = %(journal)s for update

-- name: note_gap
insert into {schema}.gaps (journal, epoch, first, last, reason)
values (%(journal)s, %(epoch)s, %(first)s, %(last)s, %(reason)s)
on conflict do nothing

-- name: begin_cursor
insert into {schema}.cursors (journal, epoch, "offset", epochs)
values (%(journal)s, %(epoch)s, %(offset)s, %(epochs)s)
on conflict do nothing
returning true

-- name: record_ranges
insert into {schema}.ranges (journal, epoch, first, last)
select * from rows from (
    pg_catalog.unnest(%(journals)s::text[]), pg_catalog.unnest(%(epochs)s::text[]),
    pg_catalog.unnest(%(firsts)s::bigint[]), pg_catalog.unnest(%(lasts)s::bigint[]))
on conflict do nothing

-- name: recorded_ranges
select epoch, first, last from {schema}.ranges
where journal = %(journal)s and last > %(after)s
order by first limit %(limit)s

-- name: delete_ranges
delete from {schema}.ranges where journal = %(journal)s and last <= %(last)s

-- name: move_cursor
update {schema}.cursors
set epoch = %(epoch)s, "offset" = %(offset)s, epochs = %(epochs)s, saved_at = clock_timestamp()
where journal = %(journal)s

-- name: is_read_only
select pg_is_in_recovery() or current_setting('transaction_read_only')::boolean

-- name: probe
insert into {schema}.probes (listener, at) values (%(listener)s, clock_timestamp())
on conflict (listener) do update set at = excluded.at

-- name: end_sessions
-- The application_name of a listener's sessions ends in its token. Sessions that this role may not end are left to their
-- time-outs. A session that waits for its client would have ended with the process; a session whose state is hidden
-- counts as waiting. If the clock jumps back, an age is negative and is ignored.
with sessions as (
    select s.pid, s.state is distinct from 'active' as waits,
        extract(epoch from clock_timestamp() - s.query_start) as age_s,
        (pg_has_role(r.oid, 'usage') or pg_has_role('pg_signal_backend', 'usage'))
            and (not r.rolsuper or current_setting('is_superuser')::boolean) as may_be_ended
    from pg_stat_activity s join pg_roles r on r.oid = s.usesysid
    where right(s.application_name, length(%(token)s)) = %(token)s and s.pid <> pg_backend_pid()
), found as (
    select coalesce(bool_or(age_s >= 0 and age_s < %(silent_s)s), false) as in_use,
        count(*) filter (where waits) as waiting
    from sessions
)
select in_use, waiting,
    (select count(pg_terminate_backend(pid)) from sessions where may_be_ended and not in_use)
from found

-- name: newest
-- Newest first, after the last event of the previous page; data as text keeps numbers as they were written.
select source, id, type, subject, time, time_as_given, datacontenttype, dataschema, data::text, data_bytes,
    extensions, status, journal, epoch, "offset", listener, attempts, accepted_at, stored_at
from {schema}.events
where (%(before_at)s::timestamptz is null
       or (stored_at, source, id) < (%(before_at)s, %(before_source)s::text, %(before_id)s::text))
    and (%(type)s::text is null or type = %(type)s)
    and (%(status)s::text is null or status = %(status)s)
    and (%(source)s::text is null or source = %(source)s)
    and (%(id)s::text is null or id = %(id)s)
order by stored_at desc, source desc, id desc
limit %(limit)s

-- name: summary
select count(*) as events, count(*) filter (where status = 'dead') as dead from {schema}.events

-- name: lock_dead
-- Lock a dead letter to replay it; a second session waits here, and then finds it stored.
select d.raw, d.edited_data::text, e.type, e.journal, e.epoch, e."offset", e.attempts,
    (extract(epoch from e.accepted_at) * 1000000)::bigint
from {schema}.events e join {schema}.dead_letters d using (source, id)
where e.source = %(source)s and e.id = %(id)s
    -- rule: a replay turns a dead letter into a stored event once
    and e.status = 'dead'
    and d.discarded_at is null
for update of e, d

-- name: store_dead
-- Turn a dead event into a stored one, and write its content again: it may have been edited, or refused before.
with replayed as (
    update {schema}.dead_letters d set replayed_at = pg_catalog.clock_timestamp()
    from pg_catalog.json_to_recordset(%(events)s) as e (source text, id text)
    where d.source = e.source and d.id = e.id)
update {schema}.events t
set type = e.type, subject = e.subject, time = e.time::timestamptz,
    time_as_given = {schema}.time_as_given(e.time), datacontenttype = e.datacontenttype,
    dataschema = e.dataschema, data = e.data, data_bytes = pg_catalog.decode(e.data_base64, 'base64'),
    extensions = e.extensions::jsonb, status = 'stored', listener = %(listener)s, attempts = e.attempts,
    stored_at = pg_catalog.clock_timestamp()
from rows from (
    pg_catalog.json_to_recordset(%(events)s) as (
        source text, id text, type text, subject text, time text,
        datacontenttype text, dataschema text, data jsonb, data_base64 text),
    pg_catalog.unnest(%(attempts)s::integer[]), pg_catalog.unnest(%(extensions)s::text[])
) as e (source, id, type, subject, time, datacontenttype, dataschema, data, data_base64, attempts, extensions)
where t.source = e.source and t.id = e.id

-- name: note_failed_replay
-- The newest cause is what an operator needs to know.
update {schema}.dead_letters
set error = %(error)s, trace = %(trace)s, attempts = attempts + 1
where source = %(source)s and id = %(id)s and replayed_at is null

-- name: edit_dead_letter
update {schema}.dead_letters
set edited_data = %(data)s::jsonb
where source = %(source)s and id = %(id)s and replayed_at is null and discarded_at is null

-- name: chosen
-- Not a query: a condition that queries include in braces. Unused filters are null, and are removed by the planner.
d.replayed_at is null
    and (%(discarded)s::boolean is null
         or %(discarded)s::boolean and d.discarded_at is not null
         or not %(discarded)s::boolean and d.discarded_at is null)
    and (%(ids)s::text[] is null or d.id = any(%(ids)s))
    and (%(type)s::text is null or d.type = %(type)s)
    and (%(type_prefix)s::text is null or starts_with(d.type, %(type_prefix)s))
    and (%(source)s::text is null or d.source = %(source)s)
    and (%(error)s::text is null or position(lower(%(error)s) in lower(d.error)) > 0)
    and (%(cause)s::text is null or d.cause = %(cause)s)
    and (%(listener)s::text is null or d.listener = %(listener)s)
    and (%(since)s::timestamptz is null or d.died_at >= %(since)s)
    and (%(until)s::timestamptz is null or d.died_at < %(until)s)

-- name: list_dead_letters
-- Newest first, after the last dead letter of the previous page.
select d.source, d.id, d.type, d.error, d.cause, d.attempts, d.listener, d.died_at,
    d.edited_data is not null as edited, d.discarded_at
from {schema}.dead_letters d
where {chosen}
    and (%(before_at)s::timestamptz is null
         or (d.died_at, d.source, d.id) < (%(before_at)s, %(before_source)s::text, %(before_id)s::text))
order by d.died_at desc, d.source desc, d.id desc
limit %(limit)s

-- name: read_dead_letters
-- The list with all details; a page ends early if its dead letters are large.
with page as (
    select d.source, d.id, d.died_at, octet_length(d.raw) + octet_length(d.error) + octet_length(d.trace)
        + coalesce(pg_column_size(d.edited_data), 0) as bytes
    from {schema}.dead_letters d
    where {chosen}
        and (%(before_at)s::timestamptz is null
             or (d.died_at, d.source, d.id) < (%(before_at)s, %(before_source)s::text, %(before_id)s::text))
    order by d.died_at desc, d.source desc, d.id desc
    limit %(limit)s),
measured as (
    select source, id, count(*) over () as found,
        sum(bytes) over (order by died_at desc, source desc, id desc) - bytes as bytes_before
    from page)
select d.source, d.id, d.type, d.error, d.cause, d.attempts, d.listener, d.died_at,
    d.edited_data is not null as edited, d.discarded_at, d.trace, d.raw, d.edited_data::text as edited_data, m.found
from measured m join {schema}.dead_letters d using (source, id)
where m.bytes_before < %(max_bytes)s
order by d.died_at desc, d.source desc, d.id desc

-- name: count_causes
-- The largest first, each with its newest dead letter as an example.
with counted as (
    select d.cause, d.type, count(*) as dead_letters, max(d.died_at) as newest_at
    from {schema}.dead_letters d
    where {chosen}
    group by d.cause, d.type),
causes as (
    select cause, sum(dead_letters)::bigint as dead_letters, max(newest_at) as newest_at,
        (array_agg(type order by dead_letters desc, type))[1:5] as types,
        count(*) over () as all_causes, (sum(sum(dead_letters)) over ())::bigint as all_dead_letters
    from counted
    group by cause
    order by dead_letters desc, newest_at desc, cause
    limit %(limit)s)
select c.cause, c.dead_letters, c.newest_at, c.types, c.all_causes, c.all_dead_letters, example.source, example.id,
    {schema}.error_pattern(example.error) as error
from causes c cross join lateral (
    select d.source, d.id, d.error
    from {schema}.dead_letters d
    where d.cause = c.cause and d.died_at = c.newest_at and {chosen}
    order by d.source desc, d.id desc
    limit 1) example
order by c.dead_letters desc, c.newest_at desc, c.cause

-- name: get_dead_letter
select d.source, d.id, d.type, d.error, d.cause, d.attempts, d.listener, d.died_at,
    d.edited_data is not null as edited, d.discarded_at, d.trace, d.raw, d.edited_data::text as edited_data
from {schema}.dead_letters d
where d.replayed_at is null and d.source = %(source)s and d.id = %(id)s

-- name: held
-- Not a query: the dead letters of an operator's change, with locked rows. Skips one that is being replayed, whose event
-- row is locked; waits for a session that has only locked its own row, such as the writer of the log. Ordered, so that
-- there is no deadlock.
held as materialized (
    select d.source, d.id
    from unnest(%(sources)s::text[], %(ids)s::text[]) as n (source, id)
        join {schema}.events e using (source, id) join {schema}.dead_letters d using (source, id)
    where d.replayed_at is null and (d.discarded_at is not null) = %(discarded)s
    order by d.source, d.id
    for key share of e skip locked
    for update of d)

-- name: discard
with {held}
update {schema}.dead_letters d set discarded_at = clock_timestamp()
from held where d.source = held.source and d.id = held.id
returning d.source, d.id

-- name: restore
with {held}
update {schema}.dead_letters d set discarded_at = null
from held where d.source = held.source and d.id = held.id
returning d.source, d.id

-- name: reset
-- Replays use the event as it was received again.
with {held}
update {schema}.dead_letters d set edited_data = null
from held where d.source = held.source and d.id = held.id
returning d.source, d.id

-- name: newest_group
select revision, selectors from {schema}.groups order by revision desc limit 1

-- name: register_handlers
insert into {schema}.groups (revision, selectors, listener) values (%(revision)s, %(selectors)s, %(listener)s)
on conflict do nothing

-- name: list_gaps
select journal, epoch, first, last, reason, noted_at from {schema}.gaps
order by noted_at desc, journal, epoch, first limit 1000

-- name: prune
-- The oldest rows below the saved cursor of their journal: a reread of others must find them. Dead letters are kept
-- for an operator; replayed ones are deleted with their rows. `after` leaves out the dead letters that an earlier call
-- stepped over.
with pruned as materialized (
    select e.source, e.id, e.stored_at
    from {schema}.events e join {schema}.cursors c using (journal)
    where e.status = 'stored' and e.stored_at < clock_timestamp() - %(older_than_s)s * interval '1 second'
        and e."offset" <= c."offset" and e.stored_at < c.saved_at
        and e.stored_at >= coalesce(%(after)s::timestamptz, '-infinity')
    order by e.stored_at limit %(limit)s
    for update of e skip locked),
replayed as (delete from {schema}.dead_letters where (source, id) in (select source, id from pruned)),
deleted as (delete from {schema}.events where (source, id) in (select source, id from pruned))
select count(*), max(stored_at) from pruned

-- name: count_prunable
select count(*)
from {schema}.events e join {schema}.cursors c using (journal)
where e.status = 'stored' and e.stored_at < clock_timestamp() - %(older_than_s)s * interval '1 second'
    and e."offset" <= c."offset" and e.stored_at < c.saved_at

-- name: register_process
-- Returns no row if it exists: the previous process crashed.
insert into {schema}.running (listener) values (%(listener)s)
on conflict (listener) do nothing
returning true

-- name: count_crash_of_listener
-- Charge the crash of a process to the event that it ran alone.
update {schema}.quarantined set attempting = false, deaths = deaths + 1 where listener = %(listener)s and attempting

-- name: count_crash_of_owner
update {schema}.quarantined set attempting = false, deaths = deaths + 1 where owner = %(owner)s and attempting

-- name: unregister_process
delete from {schema}.running where listener = %(listener)s

-- name: begin_isolated
-- Returns how many processes of the group have died of the event so far; a statement does not see its own row. Ends any
-- other event of this listener, whose end may not have been recorded.
with ended as (
    update {schema}.quarantined set attempting = false
    where listener = %(listener)s and attempting and (source, id) <> (%(source)s, %(id)s)),
begun as (
    insert into {schema}.quarantined (source, id, listener, attempting, owner)
    values (%(source)s, %(id)s, %(listener)s, true, %(owner)s)
    on conflict (source, id, listener) do update set attempting = true, owner = excluded.owner)
select coalesce(sum(deaths), 0)::integer from {schema}.quarantined where source = %(source)s and id = %(id)s

-- name: end_isolated
delete from {schema}.quarantined where source = %(source)s and id = %(id)s and listener = %(listener)s

-- name: take_turn
-- Whether no other event of the key is in progress, and the place of the previous event's row, if there is one.
select taken, e.epoch, e."offset", pg_catalog.pg_backend_pid()
from pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({schema_text} || %(key)s, 0)) taken
left join {schema}.events e on e.source = %(source)s and e.id = %(id)s

-- name: places
-- The places that the rows of these identities came from.
select source, id, epoch, "offset"
from rows from (pg_catalog.unnest(%(sources)s::text[]), pg_catalog.unnest(%(ids)s::text[])) as w (source, id)
join {schema}.events using (source, id)

-- name: take_key
-- The same lock for a replayed dead letter, which has no place in the order any more.
select pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended({schema_text} || %(key)s, 0))

-- name: emit
-- In the order of emission.
insert into {schema}.outbox (event)
select e.event from pg_catalog.unnest(%(events)s::bytea[]) with ordinality as e (event, place) order by e.place

-- name: lock_outbox
-- The session's time-out is for handlers, which may have less time than a producer.
select pg_try_advisory_xact_lock(hashtextextended({schema_text} || ' outbox', 0)) as ours,
    set_config('idle_in_transaction_session_timeout', %(idle_ms)s::text, true)

-- name: due_emissions
-- As many as fit, at least one. PostgreSQL knows the length of a value that is stored out of line without reading it.
select number, event from (
    select number, event, sum(octet_length(event)) over so_far as bytes, row_number() over so_far as place
    from (select number, event from {schema}.outbox where refused_at is null order by number limit %(limit)s) as oldest
    window so_far as (order by number rows unbounded preceding)) as measured
where bytes <= %(max_bytes)s or place = 1
order by number

-- name: forget_emissions
delete from {schema}.outbox where number = any(%(numbers)s)

-- name: refuse_emission
update {schema}.outbox set refused_at = clock_timestamp(), refusal = %(reason)s where number = %(number)s

-- name: list_conflicts
-- Newest first, after the last conflict of the previous page.
select source, id, {schema}.event_type(raw) as type, journal, epoch, "offset", listener, seen_at,
    replayed_at, replayed_as, discarded_at
from {schema}.conflicts
where (case when discarded_at is not null then 'discarded' when replayed_at is not null then 'replayed'
       else 'open' end) = %(state)s
    and (%(state)s <> 'open' or (replayed_at is null and discarded_at is null))
    and (%(source)s::text is null or source = %(source)s)
    and (%(id)s::text is null or id = %(id)s)
    and (%(before_at)s::timestamptz is null
         or (seen_at, epoch, "offset") < (%(before_at)s, %(before_epoch)s::text, %(before_offset)s::bigint))
order by seen_at desc, epoch desc, "offset" desc
limit %(limit)s

-- name: get_conflict
-- With the row of its identity, which may have been pruned.
select c.source, c.id, {schema}.event_type(c.raw) as type, c.journal, c.epoch, c."offset", c.listener, c.seen_at,
    c.replayed_at, c.replayed_as, c.discarded_at, c.raw,
    e.status as row_status, e.stored_at as row_stored_at, e.epoch as row_epoch, e."offset" as row_offset
from {schema}.conflicts c left join {schema}.events e on e.source = c.source and e.id = c.id
where c.epoch = %(epoch)s and c."offset" = %(offset)s

-- name: open_work
-- What waits for something or somebody, of the whole group.
select r.retrying, d.dead_letters, d.oldest_s, c.conflicts, o.emissions, o.oldest_s
from (
    select count(*) as retrying
    from {schema}.attempts a
    where not exists (select from {schema}.events e where e.source = a.source and e.id = a.id)
) r
cross join (
    select count(*) as dead_letters,
        coalesce(extract(epoch from clock_timestamp() - min(died_at)), 0)::float8 as oldest_s
    from {schema}.dead_letters
    where replayed_at is null and discarded_at is null
) d
cross join (
    select count(*) as conflicts from {schema}.conflicts where replayed_at is null and discarded_at is null
) c
cross join (
    select count(*) as emissions,
        coalesce(extract(epoch from clock_timestamp() - min(emitted_at)), 0)::float8 as oldest_s
    from {schema}.outbox
    where refused_at is null
) o

-- name: discard_conflicts
with chosen as materialized (
    select epoch, "offset" from {schema}.conflicts
    where (epoch, "offset") in (select * from unnest(%(epochs)s::text[], %(offsets)s::bigint[]))
        and replayed_at is null and discarded_at is null
    for update skip locked)
update {schema}.conflicts c set discarded_at = clock_timestamp()
from chosen where c.epoch = chosen.epoch and c."offset" = chosen."offset"
returning c.epoch, c."offset"

-- name: restore_conflicts
with chosen as materialized (
    select epoch, "offset" from {schema}.conflicts
    where (epoch, "offset") in (select * from unnest(%(epochs)s::text[], %(offsets)s::bigint[]))
        and discarded_at is not null
    for update skip locked)
update {schema}.conflicts c set discarded_at = null
from chosen where c.epoch = chosen.epoch and c."offset" = chosen."offset"
returning c.epoch, c."offset"

-- name: lock_conflict
-- An open conflict to be replayed; a second session waits here, and then finds it replayed.
select journal, raw, (extract(epoch from seen_at) * 1000000)::bigint
from {schema}.conflicts
where epoch = %(epoch)s and "offset" = %(offset)s and replayed_at is null and discarded_at is null
for update

-- name: note_conflict_replayed
update {schema}.conflicts set replayed_at = pg_catalog.clock_timestamp(), replayed_as = %(id)s
where epoch = %(epoch)s and "offset" = %(offset)s
