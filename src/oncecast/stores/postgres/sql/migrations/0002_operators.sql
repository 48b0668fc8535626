-- What an operator does about a dead letter: the mended data stands beside the original, which is kept.
alter table {schema}.dead_letters
    add column edited_data jsonb,
    add column replayed_at timestamptz;

-- Stretches of a journal that were gone before the group had read them; the cursor that passes one commits with it.
create table {schema}.gaps (
    journal  text not null,
    epoch    text not null,
    first    bigint not null,
    last     bigint not null,
    reason   text not null,
    noted_at timestamptz not null default clock_timestamp(),
    primary key (journal, epoch, first)
);

-- Which events the group's application handles; the newest row counts, and rows go in only in its name.
create table {schema}.groups (
    revision   integer primary key,
    selectors  text[] not null,
    listener   text not null,
    adopted_at timestamptz not null default clock_timestamp()
);
