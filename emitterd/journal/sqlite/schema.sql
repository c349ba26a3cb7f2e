-- The journal: one row for each version of each file.
-- Instants are seconds since the epoch (UTC), sizes are bytes, paths are bytes
-- relative to the watched folder. `grant` holds a secret while it is pinned.
-- A version that an operator has marked as delivered was not sent: it has no `delivered_at`.
-- Each change of state raises `token`; `host` is whose claim it is, on a shared journal.
-- `findings` is JSON; a version with `forgotten_at` is a receipt and nothing more.
create table entry (
    id           integer primary key,
    path         blob    not null,
    state        text    not null check (state in ('queued', 'delivering', 'deferred',
                                 'delivered', 'rejected', 'withdrawn', 'held')),
    flow         text    not null,
    turn         integer not null,
    rank         integer not null,
    device       integer not null,
    inode        integer not null,
    bytes        integer not null,
    mtime_ns     integer not null,
    ctime_ns     integer not null,
    admitted_at  real    not null,
    changed_at   real    not null,
    attempts     integer not null default 0,
    due_at       real,
    error        text,
    reason       text,
    "grant"      blob,
    key          text,
    granted_at   real,
    ambiguous    integer not null default 0,
    earlier_keys text,
    delivered_at real,
    duration_s   real,
    sha256       blob,
    md5          blob,
    etag         text,
    verified     integer,
    disposal     text    check (disposal in ('due', 'done')),
    findings     text,
    forgotten_at real,
    moved_to     blob,
    confirmation text    check (confirmation in ('found', 'absent', 'other', 'unknown', 'marked')),
    delivered_to integer,
    token        integer not null default 0,
    host         integer
) strict;

-- The emission APIs that files were delivered to: `entry.delivered_to` is the id of one.
create table server (
    id  integer primary key,
    url text    not null unique
) strict;

-- The processes that share a journal. One file has one host, and no row.
create table host (
    id       integer primary key,
    name     text    not null,
    boot_id  text    not null,
    pid      integer not null,
    version  text    not null,
    begun_at real    not null,
    until_at real    not null,
    ended_at real
) strict;

-- One live version a path: never two uploads of one path at once.
create unique index entry_live on entry (path)
    where state in ('queued', 'delivering', 'deferred', 'held');
create index entry_path on entry (path, id);
create index entry_queue on entry (turn, rank, id) where state = 'queued';
create index entry_due on entry (due_at) where state = 'deferred';
create index entry_waiting on entry (admitted_at)
    where state in ('queued', 'delivering', 'deferred');
create index entry_delivered on entry (delivered_at) where state = 'delivered';
create index entry_pinned on entry (due_at)
    where "grant" is not null and state in ('queued', 'deferred');
create index entry_rejected on entry (changed_at) where state = 'rejected';
create index entry_held on entry (changed_at) where state = 'held';
create index entry_uncertain on entry (changed_at) where state = 'held' and error = 'E107';
create index entry_dropped on entry (delivered_at)
    where state = 'delivered' and instr(findings, '"level": "error"') > 0;
create index entry_marked on entry (admitted_at) where confirmation = 'marked';
create index entry_disposal on entry (id) where disposal = 'due';
create index entry_admitted on entry (admitted_at);
create index entry_dataset on entry (flow, admitted_at);
create index entry_ended on entry (state, admitted_at)
    where state in ('rejected', 'withdrawn', 'held');

-- Counts by state, kept by the database itself, so that asking costs the same at a
-- million rows as at ten.
create table tally (
    state   text    primary key,
    entries integer not null,
    bytes   integer not null
) strict, without rowid;
insert into tally (state, entries, bytes)
    values ('queued', 0, 0), ('delivering', 0, 0), ('deferred', 0, 0),
           ('delivered', 0, 0), ('rejected', 0, 0), ('withdrawn', 0, 0), ('held', 0, 0);
create trigger entry_inserted after insert on entry begin
    update tally set entries = entries + 1, bytes = bytes + new.bytes
        where state = new.state;
end;
create trigger entry_moved after update of state on entry
when new.state <> old.state begin
    update tally set entries = entries - 1, bytes = bytes - old.bytes
        where state = old.state;
    update tally set entries = entries + 1, bytes = bytes + new.bytes
        where state = new.state;
end;
create trigger entry_deleted after delete on entry begin
    update tally set entries = entries - 1, bytes = bytes - old.bytes
        where state = old.state;
end;

-- When a file of each dataset was last admitted, last delivered and last processed by the server
-- (by its clock), kept by the database itself.
-- The flow of an unknown dataset begins with a slash, and has no row: its folders are without
-- number.
create table arrival (
    dataset      text primary key,
    admitted_at  real not null,
    delivered_at real,
    accepted_at  real
) strict, without rowid;
create trigger arrival_admitted after insert on entry
when instr(new.flow, '/') > 1 and new.confirmation is not 'marked' begin
    insert into arrival (dataset, admitted_at, delivered_at)
        values (new.flow, new.admitted_at, new.delivered_at)
        on conflict (dataset) do update set admitted_at = excluded.admitted_at,
            delivered_at = coalesce(excluded.delivered_at, delivered_at);
end;
create trigger arrival_delivered after update of state on entry
when new.state = 'delivered' and old.state <> 'delivered' begin
    update arrival set delivered_at = new.delivered_at where dataset = new.flow;
end;

-- The operator's hand: who did what to which version, and when.
create table action (
    id      integer primary key,
    path    blob    not null,
    entry   integer not null,
    act     text    not null check (act in ('hold', 'release', 'retry', 'forget', 'mark-delivered')),
    state   text    not null,
    user    text    not null,
    at      real    not null
) strict;
create index action_path on action (path, id);
create index action_at on action (at);

-- What is kept beside the entries: the destination's trouble, a refused login.
-- `host`: the name of the host that it is of, on a shared journal; empty if it is of all.
create table fact (
    host  text not null default '',
    name  text not null,
    value text not null,
    primary key (host, name)
) strict, without rowid;

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
create trigger arrival_processed after insert on tracked when new.state = 'processed' begin
    update arrival set accepted_at = new.looked_at
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
