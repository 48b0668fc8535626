-- The journals that the group has met, each with the SHA-256 of the key that its producer showed then. A producer that
-- names a journal without showing its key is another journal's. To trust another key, delete the row.
create table {schema}.journals (
    journal  text primary key,
    key_hash text not null,
    met_at   timestamptz not null default clock_timestamp()
);
