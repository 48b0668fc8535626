-- Running listeners: if the row exists when a listener starts, its previous process crashed.
create table {schema}.running (
    listener text primary key,
    began_at timestamptz not null default clock_timestamp()
);

-- Quarantined events that ran alone while Redis could not count, and how many processes died of each; `attempting` is
-- true while one runs.
create table {schema}.quarantined (
    source     text not null,
    id         text not null,
    listener   text not null,
    attempting boolean not null,
    deaths     integer not null default 0,
    primary key (source, id, listener)
);
