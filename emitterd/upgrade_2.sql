-- From schema 2 to 3: what waits for a person, by since when.
create index entry_rejected on entry (changed_at) where state = 'rejected';
create index entry_held on entry (changed_at) where state = 'held';
