-- From schema 2 to 3: what the bucket showed under the key of a lost answer; what has
-- its grant is found at once while the API is down; what waits for a person, by since
-- when.
alter table entry add column confirmation text
    check (confirmation in ('found', 'absent', 'other', 'unknown'));
create index entry_pinned on entry (due_at)
    where "grant" is not null and state in ('queued', 'deferred');
create index entry_rejected on entry (changed_at) where state = 'rejected';
create index entry_held on entry (changed_at) where state = 'held';
