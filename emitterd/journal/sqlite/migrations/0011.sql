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
alter table fact rename to former_fact;
create table fact (
    host  text not null default '',
    name  text not null,
    value text not null,
    primary key (host, name)
) strict, without rowid;
insert into fact (name, value) select name, value from former_fact;
drop table former_fact;
