-- Each query is named by the line above it and described by the one below.

-- name: insert
-- A batch in one statement, in (source, id) order so that overlapping batches cannot deadlock.
insert into {schema}.events (
    source, id, type, subject, time, datacontenttype, dataschema, data, data_bytes, extensions,
    journal, epoch, "offset", listener, attempts, accepted_at)
select e.source, e.id, e.type, e.subject, e.time, e.datacontenttype, e.dataschema, e.data,
    decode(e.data_base64, 'base64'), e.extensions::jsonb,
    %(journal)s, %(epoch)s, e."offset", %(listener)s, e.attempts,
    timestamptz 'epoch' + e.at_us * interval '1 microsecond'
from rows from (
    json_to_recordset(%(events)s) as (
        source text, id text, type text, subject text, time timestamptz,
        datacontenttype text, dataschema text, data jsonb, data_base64 text),
    unnest(%(offsets)s::bigint[], %(attempts)s::integer[], %(at_us)s::bigint[], %(extensions)s::text[])
) as e (source, id, type, subject, time, datacontenttype, dataschema, data, data_base64,
        "offset", attempts, at_us, extensions)
order by e.source, e.id
on conflict do nothing
returning "offset"

-- name: compare
-- What stands under the identities of arrivals that were not inserted.
select w."offset",
    e.epoch = %(epoch)s and e."offset" = w."offset" as same_place,
    e.type = w.type
        and e.data is not distinct from w.data
        and e.data_bytes is not distinct from decode(w.data_base64, 'base64') as same_content
from rows from (
    json_to_recordset(%(events)s) as (source text, id text, type text, data jsonb, data_base64 text),
    unnest(%(offsets)s::bigint[])
) as w (source, id, type, data, data_base64, "offset")
join {schema}.events e on e.source = w.source and e.id = w.id

-- name: compare_place
-- Whether the row of an identity came from this place.
select epoch = %(epoch)s and "offset" = %(offset)s from {schema}.events where source = %(source)s and id = %(id)s

-- name: keep_conflict
insert into {schema}.conflicts (source, id, journal, epoch, "offset", raw, listener)
values (%(source)s, %(id)s, %(journal)s, %(epoch)s, %(offset)s, %(raw)s, %(listener)s)
on conflict do nothing

-- name: mark_dead
update {schema}.events set status = 'dead' where source = %(source)s and id = %(id)s

-- name: keep_dead_letter
insert into {schema}.dead_letters (source, id, error, trace, attempts, raw, listener)
values (%(source)s, %(id)s, %(error)s, %(trace)s, %(attempts)s, %(raw)s, %(listener)s)

-- name: insert_dead
-- The row of an event that PostgreSQL could not take as it is: its payload stays in dead_letters.raw.
insert into {schema}.events (source, id, type, status, journal, epoch, "offset", listener, attempts, accepted_at)
values (%(source)s, %(id)s, %(type)s, 'dead', %(journal)s, %(epoch)s, %(offset)s, %(listener)s, %(attempts)s,
    timestamptz 'epoch' + %(at_us)s * interval '1 microsecond')
on conflict do nothing
returning "offset"

-- name: unfiled
-- A listener's dead letters whose line has not been written yet, oldest first.
select source, id, error, attempts, raw, died_at from {schema}.dead_letters
where listener = %(listener)s and filed_at is null
order by died_at limit %(limit)s

-- name: mark_filed
update {schema}.dead_letters set filed_at = clock_timestamp()
where filed_at is null and (source, id) in (select * from unnest(%(sources)s::text[], %(ids)s::text[]))

-- name: load_cursor
select epoch, "offset", epochs from {schema}.cursors where journal = %(journal)s

-- name: lock_cursor
-- Another listener that is at it has the row locked: then there is nothing to do.
select epoch, "offset", epochs from {schema}.cursors where journal = %(journal)s for update skip locked

-- name: begin_cursor
insert into {schema}.cursors (journal, epoch, "offset", epochs)
values (%(journal)s, %(epoch)s, %(offset)s, %(epochs)s)
on conflict do nothing
returning true

-- name: count_present
-- How many of these identities have rows; the ids travel as JSON, which costs a third of an array.
select count(*) from {schema}.events
where source = %(source)s and id = any(array(select json_array_elements_text(%(ids)s)))

-- name: list_present
select id from {schema}.events
where source = %(source)s and id = any(array(select json_array_elements_text(%(ids)s)))

-- name: move_cursor
update {schema}.cursors
set epoch = %(epoch)s, "offset" = %(offset)s, epochs = %(epochs)s, saved_at = clock_timestamp()
where journal = %(journal)s

-- name: probe
insert into {schema}.probes (listener, at) values (%(listener)s, clock_timestamp())
on conflict (listener) do update set at = excluded.at

-- name: end_sessions
-- The holder's token ends the application_name of all its sessions.
select count(pg_terminate_backend(pid)) from pg_stat_activity
where right(application_name, length(%(token)s)) = %(token)s and pid <> pg_backend_pid()

-- name: newest
-- Newest first, behind the event that ended the page before; data as text keeps numbers as they were written.
select source, id, type, subject, time, datacontenttype, dataschema, data::text, data_bytes, extensions,
    status, journal, epoch, "offset", listener, attempts, accepted_at, stored_at
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
