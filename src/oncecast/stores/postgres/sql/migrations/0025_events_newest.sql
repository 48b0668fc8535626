-- Ascending and of one column: new rows go to the last page of the index, and its entries are smaller.
-- Readers wait only for the exchange, not while the new index is built.
create index events_newest_0025 on {schema}.events (stored_at);
drop index {schema}.events_newest;
alter index {schema}.events_newest_0025 rename to events_newest;
