// An application that adds payments one after another, and reads each back by its old names, until
// its standard input ends. It prints a line of JSON for each payment that was acknowledged.

import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { codeOf, Routes, through } from './retry.mjs'

const require = createRequire(import.meta.url)
const { PrismaPg } = require('@prisma/adapter-pg')
const monolith = require('./generated/monolith')
const service = require('./generated/payments')

const [place, monolithName, tag] = process.argv.slice(2)

// A URL that never changes leads to PgBouncer; otherwise the env file says where writes go now.
function urlNow() {
  if (place.startsWith('postgresql:')) return place
  return readFileSync(place, 'utf8').match(/^PAYMENTS_WRITE_URL='(.*)'$/m)[1]
}

const patient = { transactionOptions: { maxWait: 15_000, timeout: 20_000 } }
const routes = new Routes(urlNow, {
  payments_db: (url) =>
    new service.PrismaClient({ adapter: new PrismaPg({ connectionString: url }), ...patient }),
  [monolithName]: (url) => {
    const adapter = new PrismaPg({ connectionString: url }, { schema: 'blytz_hire' })
    return new monolith.PrismaClient({ adapter, ...patient })
  },
})

const seen = []
async function add(id, isTransaction) {
  return through(
    routes,
    async (client, side) => {
      const amount = side === 'payments_db' ? { amountNew: '7.00' } : { amount: 700 }
      const create = {
        id,
        userId: payer,
        receiverId: 'nobody',
        stripeIntent: id,
        status: 'paid',
        method: 'card',
        ...amount,
      }
      // The id was made before the first try, so a repeated one finds its row instead of a second.
      const write = (to) => to.payment.upsert({ where: { id }, create, update: {} })
      try {
        const added = isTransaction
          ? await client.$transaction(async (tx) => {
              await tx.user.findUniqueOrThrow({ where: { id: payer } })
              return write(tx)
            })
          : await write(client)
        const read = await client.payment.findUniqueOrThrow({
          where: { id: added.id },
          include: { user: { select: { email: true } } },
        })
        const isSame = read.userId === payer && read.stripeIntent === id && !!read.user.email
        return { side, isSame }
      } catch (error) {
        seen.push(codeOf(error))
        throw error
      }
    },
    { canRepeat: true },
  )
}

let isOver = false
process.stdin.on('end', () => (isOver = true)).resume()
const { client } = await routes.now()
const payer = (await client.user.findFirstOrThrow({ orderBy: { id: 'asc' } })).id
for (let number = 0; !isOver; number++) {
  const id = `${tag}-${randomUUID()}`
  const said = await add(id, number % 2 === 1)
  console.log(JSON.stringify({ id, ...said, seen: seen.splice(0) }))
  await new Promise((resolve) => setTimeout(resolve, 10))
}
process.exit()
