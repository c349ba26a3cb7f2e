-- From schema 3 to 4: deliveries belong to a server. Those of before are the first server's.
create table server (
    id  integer primary key,
    url text    not null unique
) strict;
alter table entry add column delivered_to integer;
update entry set delivered_to = 1 where state = 'delivered';
