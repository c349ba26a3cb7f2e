-- From schema 4 to 5: delivered files that the server will drop are found at once.
create index entry_dropped on entry (delivered_at)
    where state = 'delivered' and instr(findings, '"level": "error"') > 0;
