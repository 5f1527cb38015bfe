-- Triggers that an earlier version has put on the service's tables. Last, since it locks them.
select split.renew_triggers();
