// Runs each statement of standard input with node-postgres and with Prisma, and prints what they
// say about it. A statement is {"name", "url", "sql", "schema"?, "begin"?}. With `schema` Prisma
// updates the model Payment there, instead of running the SQL. `begin` runs before, in a
// repeatable-read transaction, and then a line of standard input is awaited.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { codeOf } from './retry.mjs'

const require = createRequire(import.meta.url)
const { PrismaPg } = require('@prisma/adapter-pg')
const { Client } = require('pg')
const { PrismaClient } = require('./generated/monolith')

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const next = async () => (await lines.next()).value
const report = (name, driver, error) =>
  console.log(
    JSON.stringify({ name, driver, class: error.constructor.name, code: error.code, is: codeOf(error) }),
  )

async function withPg({ name, url, sql, begin }, ready) {
  const client = new Client(url)
  client.on('error', () => {})
  try {
    await client.connect()
    if (begin) {
      await client.query('begin isolation level repeatable read')
      await client.query(begin)
      await ready()
    }
    await client.query(sql)
    console.log(JSON.stringify({ name, driver: 'node-postgres', class: 'none' }))
  } catch (error) {
    report(name, 'node-postgres', error)
  }
  await client.end().catch(() => {})
}

async function withPrisma({ name, url, sql, schema, begin }, ready) {
  const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url }, { schema }) })
  const update = { where: { id: 'none' }, data: { status: 'new' } }
  const work = async (tx) => {
    if (begin) {
      await tx.$queryRawUnsafe(begin)
      await ready()
    }
    return schema ? tx.payment.updateMany(update) : tx.$executeRawUnsafe(sql)
  }
  try {
    const options = { isolationLevel: 'RepeatableRead', timeout: 60_000 }
    await (begin ? prisma.$transaction(work, options) : work(prisma))
    console.log(JSON.stringify({ name, driver: 'Prisma', class: 'none' }))
  } catch (error) {
    report(name, 'Prisma', error)
  }
  await prisma.$disconnect()
}
for (let line = await next(); line; line = await next()) {
  const probe = JSON.parse(line)
  let release
  const go = new Promise((resolve) => (release = resolve))
  let waiting = 0
  const ready = async () => {
    waiting += 1
    if (waiting === 2) {
      console.log(JSON.stringify({ name: probe.name, driver: 'ready' }))
      await next()
      release()
    }
    await go
  }
  await Promise.all([withPg(probe, ready), withPrisma(probe, ready)])
}
process.exit()
