-- From schema 5 to 6: when each dataset last came.
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
create trigger arrival_admitted after insert on entry when instr(new.flow, '/') > 1 begin
    insert into arrival (dataset, admitted_at, delivered_at)
        values (new.flow, new.admitted_at, new.delivered_at)
        on conflict (dataset) do update set admitted_at = excluded.admitted_at,
            delivered_at = coalesce(excluded.delivered_at, delivered_at);
end;
create trigger arrival_delivered after update of state on entry
when new.state = 'delivered' and old.state <> 'delivered' begin
    update arrival set delivered_at = new.delivered_at where dataset = new.flow;
end;
insert into arrival (dataset, admitted_at, delivered_at)
    select flow, max(admitted_at), max(delivered_at) from entry
    where instr(flow, '/') > 1 group by flow;
