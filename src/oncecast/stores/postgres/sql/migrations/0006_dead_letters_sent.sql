-- Forwarding of dead letters to a broker: when each was sent, and when a listener claimed it.
alter table {schema}.dead_letters
    add column sent_at timestamptz,
    add column send_claimed_at timestamptz;

create index dead_letters_unforwarded on {schema}.dead_letters (died_at) where sent_at is null and discarded_at is null;

-- When the group began to forward dead letters: earlier ones are not sent. One row at most.
create table {schema}.sending (
    only_row boolean primary key default true check (only_row),
    began_at timestamptz not null default clock_timestamp()
);
