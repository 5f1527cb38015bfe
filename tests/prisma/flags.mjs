// Where each of a thousand users reads, as the OpenFeature SDK says: node flags.mjs FILE FLAG.
// It answers each line of its input with a line of JSON.
import { OpenFeature } from '@openfeature/server-sdk'
import { FlagdProvider } from '@openfeature/flagd-provider'
import { createInterface } from 'node:readline'

const [file, flag] = process.argv.slice(2)
const provider = new FlagdProvider({ resolverType: 'in-process', offlineFlagSourcePath: file })
await OpenFeature.setProviderAndWait(provider)
const client = OpenFeature.getClient()
for await (const _ of createInterface({ input: process.stdin })) {
  const names = Array.from({ length: 1000 }, (_, one) => `user-${one}`)
  const found = names.map((name) => client.getStringValue(flag, 'unknown', { targetingKey: name }))
  console.log(JSON.stringify(await Promise.all(found)))
}
await OpenFeature.close()
