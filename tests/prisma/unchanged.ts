// The application's code as it is before the move. It compiles with the client of the monolith and
// with the client of the service; ./client is one or the other.

import { Prisma, PrismaClient } from './client'

export async function paid(prisma: PrismaClient, userId: string) {
  const payment = await prisma.payment.findUniqueOrThrow({
    where: { stripeIntent: 'pi' },
    include: { user: { select: { email: true, role: true } } },
  })
  const texts: string[] = [payment.id, payment.userId, payment.status, payment.user.email]
  const perhaps: (string | null)[] = [payment.contractId, payment.jobId, payment.matchId]
  const times: (Date | null)[] = [payment.createdAt, payment.processedAt, payment.updatedAt]
  const page = await prisma.payment.findMany({
    where: { userId, OR: [{ status: 'paid' }, { createdAt: { gt: new Date() } }] },
    orderBy: { createdAt: 'desc' },
    take: 10,
  })
  return { texts, perhaps, times, page }
}

export async function review(prisma: PrismaClient, data: Prisma.ReviewUncheckedCreateInput) {
  await prisma.$transaction(async (tx) => {
    const { id } = await tx.review.create({ data })
    await tx.review.update({ where: { id }, data: { helpful: { increment: 1 } } })
  })
  const rating: number = (await prisma.review.findFirstOrThrow()).rating
  return rating
}

export async function settle(prisma: PrismaClient, id: string) {
  return prisma.payment.update({ where: { id }, data: { status: 'settled', receiverId: 'r' } })
}
