import { setTimeout as delay } from 'node:timers/promises'

const patienceMilliseconds = 30_000

/** Asks `question` until it has an answer; that it never has one is an error. */
export async function until<Answer>(
  what: string,
  question: () => Promise<Answer | undefined> | Answer | undefined,
  pollMilliseconds = 5,
): Promise<Answer> {
  const deadline = Date.now() + patienceMilliseconds
  for (;;) {
    const answer = await question()
    if (answer !== undefined) return answer
    if (Date.now() >= deadline) throw new Error(`waited ${patienceMilliseconds} ms in vain until ${what}`)
    await delay(pollMilliseconds)
  }
}
