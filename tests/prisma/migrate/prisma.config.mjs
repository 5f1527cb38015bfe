// Prisma Migrate with its schema engine as WebAssembly, which is in the package itself; 6 is the
// last version that lets it connect by an adapter.

import { PrismaPg } from '@prisma/adapter-pg'

export default {
  engine: 'js',
  experimental: { adapter: true },
  schema: 'prisma/schema.prisma',
  adapter: async () =>
    new PrismaPg({ connectionString: process.env.DATABASE_URL, idleTimeoutMillis: 1, allowExitOnIdle: true }),
}
