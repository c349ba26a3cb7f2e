-- From schema 2 to 3: what has its grant is found at once while the API is down.
create index entry_pinned on entry (due_at)
    where "grant" is not null and state in ('queued', 'deferred');
