-- A handler that takes its own event's row away would commit effects without the row, and run again without end. The
-- transaction that wrote a row may neither delete it nor give it another identity. Other transactions may, the pruner
-- for one: for them the condition is false, and an insert does not look at it.
create function {schema}.refuse_own_row() returns trigger language plpgsql as $$
begin
    raise exception 'a handler may not take away the row of its own event in %.events', tg_table_schema
        using hint = 'Delete or change it in a transaction of your own, after the event has ended.';
end
$$;

create trigger own_row before delete or update of source, id on {schema}.events
    for each row
    -- rule: a handler cannot remove the row of its own event
    when (old.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid)
    execute function {schema}.refuse_own_row();

create function {schema}.refuse_own_truncate() returns trigger language plpgsql as $$
begin
    if exists (select from {schema}.events where xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid) then
        raise exception 'a handler may not take away the row of its own event in %.events', tg_table_schema;
    end if;
    return null;
end
$$;

create trigger own_truncate before truncate on {schema}.events
    for each statement execute function {schema}.refuse_own_truncate();

-- Also where session_replication_role turns other triggers off.
alter table {schema}.events enable always trigger own_row, enable always trigger own_truncate;
