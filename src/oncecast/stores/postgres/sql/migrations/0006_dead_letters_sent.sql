-- Dead letters that a broker is to have, too: which it has, and since when somebody is sending one.
alter table {schema}.dead_letters
    add column sent_at timestamptz,
    add column send_claimed_at timestamptz;

create index dead_letters_unforwarded on {schema}.dead_letters (died_at) where sent_at is null and discarded_at is null;

-- Since when the group has a broker: what died before is not sent. One row at most.
create table {schema}.sending (
    only_row boolean primary key default true check (only_row),
    began_at timestamptz not null default clock_timestamp()
);
