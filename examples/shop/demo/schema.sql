create schema if not exists shop;

create table shop.customers (
    id text not null,
    "fullName" text not null,
    email text not null
);

create table shop.orders (
    id text not null,
    "customerId" text not null,
    "totalCents" integer not null,
    "placedAt" timestamp(3) not null
);
