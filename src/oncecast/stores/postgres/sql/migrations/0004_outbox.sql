-- Events that handlers emitted, inserted in the transaction of their cause; deleted when a producer has accepted them.
create table {schema}.outbox (
    number     bigint generated always as identity primary key,
    event      bytea not null,
    emitted_at timestamptz not null default clock_timestamp(),
    refused_at timestamptz,
    refusal    text
);

create index outbox_due on {schema}.outbox (number) where refused_at is null;
