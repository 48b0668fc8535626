-- The lease token of the process that runs an event alone, so that the listener that takes over its ranges can charge its
-- crash. A process of an older release writes none: there, the next process of its name counts the crash.
alter table {schema}.quarantined add column owner text;
