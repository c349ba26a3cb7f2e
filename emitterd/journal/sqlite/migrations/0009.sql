-- From schema 8 to 9: the page lists files by their admission, the newest first: all of them, those
-- of one dataset, and those that ended without a delivery.
create index entry_admitted on entry (admitted_at);
create index entry_dataset on entry (flow, admitted_at);
create index entry_ended on entry (state, admitted_at)
    where state in ('rejected', 'withdrawn', 'held');
