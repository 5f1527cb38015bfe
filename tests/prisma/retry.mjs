// How an application goes on through a switch and a rollback; see docs/moving-an-application.md.

// Nothing was committed: repeat the whole transaction. A table is moving or has moved (25006); a
// conflict, a deadlock, a lock (40001, 40P01, 55P03); the other side's tables (42P01, 42501, 3F000);
// Prisma's own time for a transaction is over (P2028) or its pool gave no connection (P2024).
const AGAIN = ['25006', '40001', '40P01', '55P03', '42P01', '42501', '3F000', 'P2024', 'P2028']
// The connection was lost, perhaps after the commit: repeat only what may be done twice.
const LOST = /^(08...|57P0.|ECONN.*|EPIPE|ETIMEDOUT|P1001|P1002|P1008|P1017|lost)$/

// The SQLSTATE, or what stands for it, of an error of node-postgres or of Prisma.
export function codeOf(error) {
  const inner = error.meta?.driverAdapterError?.cause
  const code = inner?.originalCode ?? error.code ?? inner?.kind
  return code ?? (/connection error|Connection terminated/.test(error.message) ? 'lost' : '')
}

// Knows the URL by which to write now, and which side it leads to; asks again after an error.
export class Routes {
  // urlNow gives the URL; clients has a function for each database's name that makes its client.
  constructor(urlNow, clients) {
    Object.assign(this, { urlNow, clients, made: new Map(), here: null })
  }

  async now() {
    if (this.here) return this.here
    const url = await this.urlNow()
    const [first] = Object.keys(this.clients)
    const asked = await this.client(first, url).$queryRaw`select current_database() as name`
    return (this.here = { client: this.client(asked[0].name, url), side: asked[0].name })
  }

  client(name, url) {
    const key = `${name} ${url}`
    if (!this.made.has(key)) this.made.set(key, this.clients[name](url))
    return this.made.get(key)
  }
}

// Does a piece of work, and repeats it as long as that is right.
export async function through(routes, work, { canRepeat = false, seconds = 60 } = {}) {
  const deadline = Date.now() + seconds * 1000
  for (let attempt = 0; ; attempt++) {
    try {
      const { client, side } = await routes.now()
      return await work(client, side)
    } catch (error) {
      const code = codeOf(error)
      const isRight = AGAIN.includes(code) || (canRepeat && LOST.test(code))
      if (!isRight || Date.now() > deadline) throw error
      routes.here = null
      const wait = Math.min(1000, 20 * 2 ** attempt)
      await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random() / 2)))
    }
  }
}
