-- Columns to select and group dead letters without reading `events`, so that it works for a million of them.

-- The common text of errors of one cause: words with a digit (numbers, ids, hashes, times) become `#`, and so does a
-- value after `=` in quotes or parentheses.
create function {schema}.error_pattern(error text) returns text
language sql immutable strict parallel safe as $$
    select left(regexp_replace(regexp_replace(regexp_replace(left(error, 1000),
        '=(''[^'']*''|"[^"]*"|\([^)]*\))', '=#', 'g'),
        '[A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*([.:,][A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*)*', '#', 'g'),
        '[ \t\r\n\f\v]+', ' ', 'g'), 200)
$$;

-- A short name of a cause.
create function {schema}.cause_of(error text) returns text
language sql immutable strict parallel safe as $$
    select left(encode(sha256(convert_to({schema}.error_pattern(error), 'UTF8')), 'hex'), 10)
$$;

alter table {schema}.dead_letters add column type text;
update {schema}.dead_letters d set type = e.type from {schema}.events e where e.source = d.source and e.id = d.id;
alter table {schema}.dead_letters
    alter column type set not null,
    add column cause text generated always as ({schema}.cause_of(error)) stored;

create index dead_letters_newest on {schema}.dead_letters (died_at desc, source desc, id desc)
    where replayed_at is null and discarded_at is null;
create index dead_letters_discarded on {schema}.dead_letters (died_at desc, source desc, id desc)
    where replayed_at is null and discarded_at is not null;
create index dead_letters_causes on {schema}.dead_letters (cause, died_at desc, source desc, id desc) include (type)
    where replayed_at is null and discarded_at is null;
create index dead_letters_id on {schema}.dead_letters (id);
