-- Pruning deletes a dead letter together with its row. The foreign key cost it a trigger and a look-up for each row.
alter table {schema}.dead_letters drop constraint dead_letters_source_id_fkey;
