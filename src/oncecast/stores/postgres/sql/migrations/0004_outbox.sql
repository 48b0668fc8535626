-- Events that handlers emitted, each written in the transaction of its cause; a row goes when a producer has its event.
create table {schema}.outbox (
    number     bigint generated always as identity primary key,
    event      bytea not null,
    emitted_at timestamptz not null default clock_timestamp(),
    refused_at timestamptz,
    refusal    text
);

create index outbox_due on {schema}.outbox (number) where refused_at is null;
