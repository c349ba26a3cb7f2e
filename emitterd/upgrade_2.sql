-- From schema 2 to 3: what was rejected, by when.
create index entry_rejected on entry (changed_at) where state = 'rejected';
