-- The statement that begins an attempt, planned once a session: whether the event's row is new. See decision 022.
create function {schema}.insert_one(
    event json, extensions jsonb, journal text, epoch text, "offset" bigint, listener text, attempts integer,
    at_us bigint, revision integer
) returns boolean language plpgsql as $$
begin
    insert into {schema}.events (
        source, id, type, subject, time, datacontenttype, dataschema, data, data_bytes, extensions,
        journal, epoch, "offset", listener, attempts, accepted_at)
    select e.source, e.id, e.type, e.subject, e.time, e.datacontenttype, e.dataschema, e.data,
        decode(e.data_base64, 'base64'), $2, $3, $4, $5, $6, $7, timestamptz 'epoch' + $8 * interval '1 microsecond'
    from json_to_record($1) as e (
        source text, id text, type text, subject text, time timestamptz,
        datacontenttype text, dataschema text, data jsonb, data_base64 text)
    where $9 < 0 or $9 = (select max(g.revision) from {schema}.groups g)
    on conflict do nothing;
    return found;
end
$$
