-- Ascending and of one column: new rows go to the last page of the index, and its entries are a quarter as large.
drop index {schema}.events_newest;
create index events_newest on {schema}.events (stored_at);
