-- Failed attempts of events that have not ended: they outlive the process. The transaction that ends an event deletes
-- its row. The table is nearly always empty, and has to be small again soon after many events failed.
create table {schema}.attempts (
    source    text collate "C" not null,
    id        text collate "C" not null,
    type      text not null,
    attempts  integer not null,
    error     text not null,
    failures  text[] not null,
    listener  text not null,
    failed_at timestamptz not null default clock_timestamp(),
    next_at   timestamptz not null,
    primary key (source, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- The statement that begins attempt number $7, planned once a session: whether the event's row is new. Nothing goes in
-- where as many attempts have failed already: the caller did not know of them. Of an event that has failed before no
-- attempt begins just when another one has failed, either: that one is about to be counted. See decisions 022 and 030.
create function {schema}.begin_attempt(
    event json, extensions jsonb, journal text, epoch text, "offset" bigint, listener text, attempts integer,
    at_us bigint, revision integer
) returns boolean language plpgsql as $$
declare
    began_at constant timestamptz := pg_catalog.clock_timestamp();
begin
    insert into {schema}.events (
        source, id, type, subject, time, time_as_given, datacontenttype, dataschema, data, data_bytes, extensions,
        journal, epoch, "offset", listener, attempts, accepted_at)
    select e.source, e.id, e.type, e.subject, e.time::timestamptz, {schema}.time_as_given(e.time),
        e.datacontenttype, e.dataschema, e.data, pg_catalog.decode(e.data_base64, 'base64'),
        $2, $3, $4, $5, $6, $7, timestamp with time zone 'epoch' + $8 * interval '1 microsecond'
    from pg_catalog.json_to_record($1) as e (
        source text, id text, type text, subject text, time text,
        datacontenttype text, dataschema text, data jsonb, data_base64 text)
    where ($9 < 0 or $9 = (select pg_catalog.max(g.revision) from {schema}.groups g))
        -- rule: failed attempts count across processes
        and not exists (
            select from {schema}.attempts a where a.source = e.source and a.id = e.id and a.attempts >= $7)
    on conflict do nothing;
    if not found then
        return false;
    end if;
    if $7 > 1 then
        if pg_catalog.clock_timestamp() - began_at > interval '50 milliseconds' then
            return false;
        end if;
        delete from {schema}.attempts a using pg_catalog.json_to_record($1) as e (source text, id text)
        where a.source = e.source and a.id = e.id;
    end if;
    return true;
end
$$;
