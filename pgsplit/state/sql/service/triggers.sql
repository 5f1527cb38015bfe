-- Triggers that an earlier version has put on the service's tables. Last, since it takes their lock.
select split.renew_triggers();
