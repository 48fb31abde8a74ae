import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import {
  atomicUpdate,
  atomicUpsert,
  increment,
  mergeJsonKey,
  set,
  UnknownOutcomeError,
  withLock,
  withOptimisticLock,
} from 'sequelize-lossless'
import { explore } from 'every-order'
import type { Fault } from 'every-order'
import { eachServer } from '../each-database.js'
import { createRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

type Target = readonly [typeof WorkflowRun, number]

const counted = (progress: Progress | null, who: string): Progress => ({
  ...progress,
  [who]: 1,
  n: ((progress?.['n'] as number | undefined) ?? 0) + 1,
})

/** Each write adds a key and counts itself, in one transaction or one statement. */
const writers: Record<string, (target: Target, who: string) => Promise<unknown>> = {
  mergeJsonKey: (target, who) => mergeJsonKey(target, 'progress', who, 1),
  atomicUpdate: (target, who) => atomicUpdate(target, { progress: [set(who, 1), increment('n')], title: who }),
  atomicUpsert: (target, who) => atomicUpsert(target, { progress: [set(who, 1), increment('n')] }),
  'withLock and save': (target, who) =>
    withLock(target, async (run) => {
      run.progress = counted(run.progress, who)
      await run.save()
    }),
  'withLock with retry': (target, who) =>
    withLock(target, (run) => run.update({ progress: counted(run.progress, who) }), {
      retry: { maxAttempts: 3, baseDelayMs: 0 },
    }),
  withOptimisticLock: (target, who) =>
    withOptimisticLock(target, (run) => void (run.progress = counted(run.progress, who))),
}

const certain = 'SequelizeDatabaseError, not written'
const unknown = (...found: string[]): string[] => found.map((each) => `UnknownOutcomeError, ${each}`)
const stopped = ['stopped, not written']

/** How a writer ends that does not resolve, by fault: the outcome is unknown of a COMMIT, and of a write without a transaction. */
function expected(name: string): Record<Fault, string[]> {
  if (name.startsWith('withLock')) {
    return {
      'killed-before': [certain, ...unknown('not written')],
      'killed-after': [certain],
      'lost-commit-answer': unknown('written'),
      stopped,
    }
  }
  // It reads first, and its UPDATE finds no row if another write was faster.
  const isOptimistic = name === 'withOptimisticLock'
  return {
    'killed-before': [...(isOptimistic ? [certain] : []), ...unknown('not written')],
    'killed-after': isOptimistic ? [certain, ...unknown('not written', 'written')] : unknown('written'),
    'lost-commit-answer': [],
    stopped,
  }
}

eachServer('the guarantees of this library, after every fault', (database) => {
  // SQLite has no connection to lose.
  if (database.name === 'sqlite') return
  let sequelize: Sequelize
  const models = new Map<boolean, typeof WorkflowRun>()
  const { warn } = console

  before(async () => {
    // Sequelize warns of each lost connection.
    console.warn = () => undefined
    ;({ sequelize } = database.connect({ pool: { max: 6 } }))
    models.set(false, await createRuns(sequelize))
    const versioned = { version: true, modelName: 'Versioned', tableName: 'versioned_runs' } as const
    models.set(true, await createRuns(sequelize, versioned))
  })

  after(() => void (console.warn = warn))

  for (const [name, write] of Object.entries(writers)) {
    it(`${name}: no partial and no repeated write, and UnknownOutcomeError if the outcome is unknown`, async () => {
      const Runs = models.get(name === 'withOptimisticLock')!
      /** How the writers ended, by fault. */
      const ends = new Map<Fault, Set<string>>()
      for (const fault of ['killed-before', 'killed-after', 'lost-commit-answer', 'stopped'] as const) {
        const seen = new Set<string>()
        ends.set(fault, seen)
        const part = (who: string) => async (context: { id: number; errors: Record<string, Error> }) => {
          try {
            await write([Runs, context.id], who)
          } catch (error) {
            context.errors[who] = error as Error
            throw error
          }
        }
        const options = {
          sequelize,
          setup: async () => {
            await Runs.destroy({ where: {} })
            return { id: (await Runs.create({ progress: {} })).id, errors: {} as Record<string, Error> }
          },
          participants: { A: part('A'), B: part('B') },
          faults: [fault],
          preemptions: 0,
        }
        const checked = await explore({
          ...options,
          check: async ({ id, errors }, outcomes) => {
            const { progress, title } = await Runs.findByPk(id, { rejectOnEmpty: true })
            const { n, ...keys } = progress ?? {}
            if (name !== 'mergeJsonKey') expect(n ?? 0).to.equal(Object.keys(keys).length)
            if (name === 'atomicUpdate' && title === null) expect(keys).to.deep.equal({})
            if (title !== null) expect(keys).to.have.property(title)
            for (const who of ['A', 'B']) {
              const error = errors[who]
              const isThere = who in keys
              if (outcomes[who] === 'ok') expect(isThere).to.equal(true)
              if (error && !(error instanceof UnknownOutcomeError)) expect(isThere).to.equal(false)
              if (outcomes[who] !== 'ok')
                seen.add(`${error?.name ?? outcomes[who]}, ${isThere ? 'written' : 'not written'}`)
            }
          },
        })
        expect([checked.failures.map(({ error, token }) => [token, error]), checked.reasons]).to.deep.equal([[], []])
      }
      const found = [...ends].map(([fault, seen]) => [fault, [...seen].sort()])
      expect(Object.fromEntries(found)).to.deep.equal(expected(name))
    })
  }
})
