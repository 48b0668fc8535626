-- Ranges of offsets whose events all have rows. A range's row commits after the rows of its events, so that it proves them,
-- also after a restore to an older state. The group's cursor moves over the union of the ranges; those below it are deleted.
create table {schema}.ranges (
    journal text not null,
    epoch   text not null,
    first   bigint not null,
    last    bigint not null,
    primary key (journal, first, last, epoch)
);
