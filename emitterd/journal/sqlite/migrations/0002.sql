-- From schema 1 to 2: findings of the inspection, the place of a moved file, the operator's hand.
alter table entry add column findings text;
alter table entry add column forgotten_at real;
alter table entry add column moved_to blob;
create index entry_disposal on entry (id) where disposal = 'due';
create table action (
    id      integer primary key,
    path    blob    not null,
    entry   integer not null,
    act     text    not null check (act in ('hold', 'release', 'retry', 'forget')),
    state   text    not null,
    user    text    not null,
    at      real    not null
) strict;
create index action_path on action (path, id);
create index action_at on action (at);
