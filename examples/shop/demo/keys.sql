alter table shop.customers add primary key (id), add unique (email);
alter table shop.orders
    add primary key (id),
    add foreign key ("customerId") references shop.customers (id);

analyze;
