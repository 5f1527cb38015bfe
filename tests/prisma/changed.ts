// What the move has changed: a line under `@ts-expect-error` must not compile with the service's
// client, so nobody writes cents where units are meant.

import { PrismaClient } from './client'

export async function changed(prisma: PrismaClient) {
  const payment = await prisma.payment.findFirstOrThrow()
  // @ts-expect-error cents became units, under another name
  void payment.amount
  // @ts-expect-error a column became a table
  void payment.refundedAt
  // @ts-expect-error a value in cents can't be written either
  await prisma.payment.update({ where: { id: payment.id }, data: { amount: 1999 } })
  // @ts-expect-error the contracts live in another database
  await prisma.contract.findFirst()
  const units: string = payment.amountNew.toFixed(2)
  const refund = await prisma.refund.findUnique({ where: { paymentId: payment.id } })
  return [units, refund?.refundedAt]
}
