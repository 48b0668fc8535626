-- Operators edit and replay dead letters; edited data is stored next to the original.
alter table {schema}.dead_letters
    add column edited_data jsonb,
    add column replayed_at timestamptz;

-- Offsets that a journal deleted before the group read them; a gap commits together with the cursor that passes it.
create table {schema}.gaps (
    journal  text not null,
    epoch    text not null,
    first    bigint not null,
    last     bigint not null,
    reason   text not null,
    noted_at timestamptz not null default clock_timestamp(),
    primary key (journal, epoch, first)
);

-- The handlers of the group's application; the newest row counts, and only its listeners insert events.
create table {schema}.groups (
    revision   integer primary key,
    selectors  text[] not null,
    listener   text not null,
    adopted_at timestamptz not null default clock_timestamp()
);
