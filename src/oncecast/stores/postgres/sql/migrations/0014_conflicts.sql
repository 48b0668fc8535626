-- A conflict is open until an operator replays its event under a new id, or discards it.
alter table {schema}.conflicts
    add column replayed_at timestamptz,
    add column replayed_as text,
    add column discarded_at timestamptz;

create index conflicts_open on {schema}.conflicts (seen_at desc, epoch desc, "offset" desc)
    where replayed_at is null and discarded_at is null;

-- The type of an event as it was received; null where PostgreSQL cannot read it.
create function {schema}.event_type(raw bytea) returns text
language plpgsql immutable strict as $$
begin
    return convert_from(raw, 'UTF8')::json ->> 'type';
exception when others then
    return null;
end
$$;
