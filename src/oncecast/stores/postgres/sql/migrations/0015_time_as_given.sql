-- An event's time as given, if it cannot be restored from `time`: another zone than Z, other decimals than none or six,
-- a leap second.
alter table {schema}.events add column time_as_given text;

create function {schema}.time_as_given(given text) returns text
language sql immutable parallel safe as $$
    select case
        when given ~ ('^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T'
            || '[0-9][0-9]:[0-9][0-9]:[0-5][0-9]([.][0-9][0-9][0-9][0-9][0-9][0-9])?Z$')
            and pg_catalog.right(given, 8) <> '.000000Z' then null
        else given
    end
$$;

create or replace function {schema}.insert_one(
    event json, extensions jsonb, journal text, epoch text, "offset" bigint, listener text, attempts integer,
    at_us bigint, revision integer
) returns boolean language plpgsql as $$
begin
    insert into {schema}.events (
        source, id, type, subject, time, time_as_given, datacontenttype, dataschema, data, data_bytes, extensions,
        journal, epoch, "offset", listener, attempts, accepted_at)
    select e.source, e.id, e.type, e.subject, e.time::timestamptz, {schema}.time_as_given(e.time),
        e.datacontenttype, e.dataschema, e.data, decode(e.data_base64, 'base64'),
        $2, $3, $4, $5, $6, $7, timestamptz 'epoch' + $8 * interval '1 microsecond'
    from json_to_record($1) as e (
        source text, id text, type text, subject text, time text,
        datacontenttype text, dataschema text, data jsonb, data_base64 text)
    where $9 < 0 or $9 = (select max(g.revision) from {schema}.groups g)
    on conflict do nothing;
    return found;
end
$$;
