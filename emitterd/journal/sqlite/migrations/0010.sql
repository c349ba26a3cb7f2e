-- From schema 9 to 10: files that the server has processed when their upload ends (cQube 5).
create trigger arrival_processed after insert on tracked when new.state = 'processed' begin
    update arrival set accepted_at = new.looked_at
        where dataset = (select flow from entry where id = new.id);
end;
