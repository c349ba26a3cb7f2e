-- From schema 2 to 3: what waits for a person is found without reading all rows.
create index entry_stopped on entry (state, changed_at)
    where state in ('rejected', 'held');
