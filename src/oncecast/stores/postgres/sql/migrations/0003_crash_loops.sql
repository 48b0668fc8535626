-- Which listeners run: one whose row is there when it begins ended without a word the last time.
create table {schema}.running (
    listener text primary key,
    began_at timestamptz not null default clock_timestamp()
);

-- Events that were attempted alone while Redis could not count, and how many processes died of each; `attempting`
-- stands while that goes on.
create table {schema}.suspects (
    source     text not null,
    id         text not null,
    listener   text not null,
    attempting boolean not null,
    deaths     integer not null default 0,
    primary key (source, id, listener)
);
