-- From schema 6 to 7: what the server made of delivered files.
-- Files that are held because the journal was rebuilt are counted once a second.
create index entry_uncertain on entry (changed_at) where state = 'held' and error = 'E107';
-- What the server made of delivered files: `tracked.id` is that of the entry, whose row it follows.
-- `due_at` is the next look, or null; `rows` is JSON. Only started_at and ended_at are of the
-- server's clock.
create table tracked (
    id         integer primary key,
    state      text    not null check (state in ('waiting', 'picked_up', 'processed',
                               'stalled', 'unknown')),
    looks      integer not null default 0,
    looked_at  real,
    due_at     real,
    seen_at    real,
    gone_at    real,
    begun_at   real,
    started_at real,
    ended_at   real,
    rows       text
) strict;
create index tracked_due on tracked (due_at) where due_at is not null;
create index tracked_waiting on tracked (seen_at) where state = 'waiting';
create index tracked_stalled on tracked (id) where state = 'stalled';
create trigger entry_renumbered after update of id on entry begin
    update tracked set id = new.id where id = old.id;
end;
create trigger entry_untracked after delete on entry begin
    delete from tracked where id = old.id;
end;
create trigger arrival_accepted after update of state on tracked
when new.state = 'processed' and old.state <> 'processed' begin
    update arrival set accepted_at = new.ended_at
        where dataset = (select flow from entry where id = new.id);
end;

-- Their counts by state, kept as those in `tally`.
create table tracked_tally (
    state text    primary key,
    files integer not null
) strict, without rowid;
insert into tracked_tally (state, files)
    values ('waiting', 0), ('picked_up', 0), ('processed', 0), ('stalled', 0), ('unknown', 0);
create trigger tracked_inserted after insert on tracked begin
    update tracked_tally set files = files + 1 where state = new.state;
end;
create trigger tracked_moved after update of state on tracked begin
    update tracked_tally set files = files - 1 where state = old.state;
    update tracked_tally set files = files + 1 where state = new.state;
end;
create trigger tracked_deleted after delete on tracked begin
    update tracked_tally set files = files - 1 where state = old.state;
end;
