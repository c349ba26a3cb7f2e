-- From schema 2 to 3: what the bucket showed under the key of a lost answer; and what
-- has its grant is found at once while the API is down; and what was rejected, by when.
alter table entry add column confirmation text
    check (confirmation in ('found', 'absent', 'other', 'unknown'));
create index entry_pinned on entry (due_at)
    where "grant" is not null and state in ('queued', 'deferred');
create index entry_rejected on entry (changed_at) where state = 'rejected';
