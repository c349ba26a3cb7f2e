-- From schema 7 to 8: files that an operator marks as delivered, without sending them.
-- SQLite cannot change a CHECK in another way, but by a copy of the whole table.
-- Source: sqlite.org/lang_altertable.html, section 7.
pragma writable_schema = on;
update sqlite_schema set sql = replace(sql, '''other'', ''unknown'')', '''other'', ''unknown'', ''marked'')')
    where type = 'table' and name = 'entry';
update sqlite_schema set sql = replace(sql, '''retry'', ''forget'')', '''retry'', ''forget'', ''mark-delivered'')')
    where type = 'table' and name = 'action';
create index entry_marked on entry (admitted_at) where confirmation = 'marked';
drop trigger arrival_admitted;
create trigger arrival_admitted after insert on entry
when instr(new.flow, '/') > 1 and new.confirmation is not 'marked' begin
    insert into arrival (dataset, admitted_at, delivered_at)
        values (new.flow, new.admitted_at, new.delivered_at)
        on conflict (dataset) do update set admitted_at = excluded.admitted_at,
            delivered_at = coalesce(excluded.delivered_at, delivered_at);
end;
pragma writable_schema = reset;
