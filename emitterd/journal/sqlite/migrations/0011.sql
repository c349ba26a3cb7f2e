-- From schema 10 to 11: the number of each change of state, and the columns that hosts need which
-- share a journal on PostgreSQL.
alter table entry add column token integer not null default 0;
alter table entry add column host integer;
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
