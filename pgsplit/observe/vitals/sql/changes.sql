select count(*) as pending from split.changes;
