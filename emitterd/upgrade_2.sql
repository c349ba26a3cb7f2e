-- From schema 2 to 3: what the bucket showed under the key of a lost answer.
alter table entry add column confirmation text
    check (confirmation in ('found', 'absent', 'other', 'unknown'));
