-- Every event that has ended. The primary key makes processing exactly once.
create table {schema}.events (
    source          text collate "C" not null,
    id              text collate "C" not null,
    type            text not null,
    subject         text,
    time            timestamptz,
    datacontenttype text,
    dataschema      text,
    data            jsonb,
    data_bytes      bytea,
    extensions      jsonb,
    status          text not null default 'stored' check (status in ('stored', 'dead')),
    journal         text not null,
    epoch           text not null,
    "offset"        bigint not null,
    listener        text not null,
    attempts        integer not null,
    accepted_at     timestamptz not null,
    stored_at       timestamptz not null default clock_timestamp(),
    primary key (source, id)
);

create index events_newest on {schema}.events (stored_at desc, source desc, id desc);
create index events_dead on {schema}.events (stored_at desc) where status = 'dead';

-- Dead letters with their causes; their rows in `events` have the status `dead`.
create table {schema}.dead_letters (
    source       text collate "C" not null,
    id           text collate "C" not null,
    error        text not null,
    trace        text not null,
    attempts     integer not null,
    raw          bytea not null,
    listener     text not null,
    died_at      timestamptz not null default clock_timestamp(),
    logged_at     timestamptz,
    discarded_at timestamptz,
    primary key (source, id),
    foreign key (source, id) references {schema}.events on delete cascade
);

create index dead_letters_unlogged on {schema}.dead_letters (listener) where logged_at is null;

-- Other content under a used identity; one row per place.
create table {schema}.conflicts (
    source   text collate "C" not null,
    id       text collate "C" not null,
    journal  text not null,
    epoch    text not null,
    "offset" bigint not null,
    raw      bytea not null,
    listener text not null,
    seen_at  timestamptz not null default clock_timestamp(),
    primary key (epoch, "offset")
);

-- The group's cursors: all events of a journal up to its cursor have rows.
create table {schema}.cursors (
    journal  text primary key,
    epoch    text not null,
    "offset" bigint not null,
    epochs   jsonb not null,
    saved_at timestamptz not null default clock_timestamp()
);

-- Written to check that writes work; one row per listener, so that probes do not wait for each other.
create table {schema}.probes (
    listener text primary key,
    at       timestamptz not null
);
