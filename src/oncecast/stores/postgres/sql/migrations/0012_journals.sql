-- The journals that the group knows, each with the SHA-256 of its key. A producer that names a known journal without
-- its key has another journal. To trust another key, delete the row.
create table {schema}.journals (
    journal  text primary key,
    key_hash text not null,
    met_at   timestamptz not null default clock_timestamp()
);
