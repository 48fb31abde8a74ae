import fc from 'fast-check'

/** What does one thing, to the row that `row` chooses among those that are locked, or among all three. */
interface Leaf {
  readonly do: CalmLeaf | CrowdedLeaf
  readonly row: number
}

/** What may run beside other steps. */
type CrowdedLeaf =
  /** Assigns the document of the locked row, and saves it. */
  | 'save'
  /** Changes the document of the locked row in place, and saves it. */
  | 'saveInPlace'
  /** `row.update({ progress })` */
  | 'update'
  /** `row.increment('bits', { by })` */
  | 'increment'
  /** A JSON method of the locked row. */
  | 'jsonOfRow'
  /** A JSON method of [Model, id], with { transaction }. */
  | 'jsonOfTarget'
  /** `Model.create`, with { transaction }. */
  | 'create'
  /** `sequelize.query`, with { transaction }. */
  | 'raw'
  /** `Model.findByPk`, with { transaction }. */
  | 'read'
  /** `Model.create` without { transaction }: must be refused. */
  | 'untold'
  /** `Model.create` with `transaction: null`: must not be refused. */
  | 'outside'
  /** A duplicate key. */
  | 'duplicate'
  /** A deadlock with another session, that has written to the locked row; on SQLite a duplicate key. */
  | 'deadlock'
  /** An error of the program itself. */
  | 'throw'
  | 'rollback'
  /** Another session sets a key of its own, whenever it gets the lock. */
  | 'theirs'

/**
 * What reads, and then writes what it made of that: safe in a transaction that holds the lock, but not beside another
 * step of the same transaction.
 */
type CalmLeaf =
  | 'reload'
  /** `withLock([Model, id])` with { transaction }: another instance, maybe of a row that is locked already. */
  | 'nested'
  /** `findByPk` with { transaction, lock: true } and `update`: the same with Sequelize's own methods. */
  | 'second'
  /** Opens a savepoint of its own. */
  | 'findOrCreate'

export type Step =
  | Leaf
  /** `.catch(() => {})` */
  | { readonly do: 'caught'; readonly steps: readonly Step[] }
  /** `Promise.all`: what is left of it goes on when one fails. */
  | { readonly do: 'all'; readonly branches: readonly (readonly Step[])[] }
  /** `Promise.allSettled` */
  | { readonly do: 'settled'; readonly branches: readonly (readonly Step[])[] }
  /** `sequelize.transaction({ transaction }, …)`; `isThrown`: it ends with an error, which is caught around it. */
  | { readonly do: 'savepoint'; readonly steps: readonly Step[]; readonly isThrown: boolean }
  /** Begins once the call is over, and is not awaited. */
  | { readonly do: 'late'; readonly steps: readonly Step[] }
  /** Begins at once, and is not awaited. */
  | { readonly do: 'forgotten'; readonly steps: readonly Step[] }

/** How a flow gets its transaction. `joined`: `withLock` in a `sequelize.transaction` of the user's. */
type Way = 'withLock' | 'withLock of a target' | 'withLocks' | 'retryTransaction' | 'joined'

export interface Flow {
  readonly way: Way
  /** Whether the callback is run again; not for `joined`, which cannot. */
  readonly isRetried: boolean
  /** The rows that it locks, of three: the first one, or all for `withLocks`. */
  readonly rows: readonly number[]
  readonly steps: readonly Step[]
  /** Whether the locked row is deleted at the end. */
  readonly isDestroyed: boolean
}

/** Flows that run at once, on three rows. */
export interface Program {
  readonly flows: readonly Flow[]
  /** The rows that another session writes to meanwhile. */
  readonly theirs: readonly number[]
}

type Weights<K extends string> = Readonly<Record<K, number>>

const crowdedLeaves: Weights<CrowdedLeaf> = {
  save: 3,
  saveInPlace: 3,
  update: 2,
  increment: 2,
  jsonOfRow: 3,
  jsonOfTarget: 3,
  create: 3,
  raw: 2,
  read: 1,
  untold: 1,
  outside: 1,
  duplicate: 1,
  deadlock: 2,
  throw: 1,
  rollback: 1,
  theirs: 1,
}
const calmLeaves: Weights<CrowdedLeaf | CalmLeaf> = {
  ...crowdedLeaves,
  // Most calm programs are to get through.
  deadlock: 1,
  reload: 1,
  nested: 1,
  second: 1,
  findOrCreate: 1,
}

function leafOf(weights: Readonly<Record<string, number>>): fc.Arbitrary<Leaf> {
  const kinds = Object.entries(weights).map(([name, weight]) => ({
    weight,
    arbitrary: fc.constant(name as Leaf['do']),
  }))
  return fc.record({ do: fc.oneof(...kinds), row: fc.nat(2) })
}

function some<T>(each: fc.Arbitrary<T>, maxLength: number): fc.Arbitrary<T[]> {
  return fc.array(each, { minLength: 1, maxLength })
}

const crowdedLeaf = leafOf(crowdedLeaves)
/** A step, or the same with its error caught. */
const branch = some(
  fc.oneof(
    { weight: 4, arbitrary: crowdedLeaf },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant('caught' as const), steps: some(crowdedLeaf, 2) }),
    },
  ),
  3,
)
const branches = fc.array(branch, { minLength: 2, maxLength: 4 })
const late: fc.Arbitrary<Step> = fc.record({ do: fc.constant('late' as const), steps: branch })

function calmSteps(leaf: fc.Arbitrary<Leaf>): fc.WeightedArbitrary<Step>[] {
  return [
    { weight: 14, arbitrary: leaf },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('caught' as const), steps: some(leaf, 2) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('settled' as const), branches }) },
    { weight: 1, arbitrary: late },
  ]
}

/**
 * Sequelize gives a savepoint within a savepoint the name of the outer one, so that a rollback to the outer one reaches
 * only the inner one. So there is none within another, of findOrCreate neither.
 */
const savepoint: fc.Arbitrary<Step> = fc.record({
  do: fc.constant('savepoint' as const),
  steps: some(fc.oneof(...calmSteps(leafOf({ ...calmLeaves, findOrCreate: 0 }))), 6),
  isThrown: fc.boolean(),
})

/**
 * Steps one after the other, in savepoints too. A group is awaited as a whole: for the server, a statement beside a
 * savepoint is part of it, so it would have no outcome of its own.
 */
const calm = some(fc.oneof(...calmSteps(leafOf(calmLeaves)), { weight: 3, arbitrary: savepoint }), 6)

/** Steps that run beside each other, and go on when one of them has failed. */
const crowded = some<Step>(
  fc.oneof(
    { weight: 6, arbitrary: crowdedLeaf },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('settled' as const), branches }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('all' as const), branches }) },
    {
      weight: 2,
      arbitrary: branches.map((given): Step => ({ do: 'caught', steps: [{ do: 'all', branches: given }] })),
    },
    { weight: 1, arbitrary: late },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('forgotten' as const), steps: branch }) },
  ),
  5,
)

const flow: fc.Arbitrary<Flow> = fc.record({
  way: fc.constantFrom<Way>('withLock', 'withLock of a target', 'withLocks', 'retryTransaction', 'joined'),
  isRetried: fc.boolean(),
  rows: fc.shuffledSubarray([0, 1, 2], { minLength: 1, maxLength: 2 }),
  steps: fc.oneof(calm, crowded),
  isDestroyed: fc.nat(19).map((number) => number === 19),
})

export const program: fc.Arbitrary<Program> = fc.record({
  flows: fc.oneof(
    { weight: 2, arbitrary: fc.array(flow, { minLength: 1, maxLength: 1 }) },
    { weight: 1, arbitrary: fc.array(flow, { minLength: 2, maxLength: 3 }) },
  ),
  theirs: fc.array(fc.nat(2), { maxLength: 2 }),
})

const troublesome: ReadonlySet<string> = new Set<Step['do']>([
  'untold',
  'duplicate',
  'deadlock',
  'throw',
  'rollback',
  // Another instance of a row that is locked may be refused.
  'nested',
  'second',
  'jsonOfTarget',
  'settled',
  'all',
  'forgotten',
])

/** Whether nothing stands in the way of this program, so that it must succeed. */
export function isUntroubled({ flows }: Program): boolean {
  const isFine = (step: Step): boolean => {
    if (step.do === 'late') return true
    return !troublesome.has(step.do) && (!('steps' in step) || step.steps.every(isFine))
  }
  return flows.length === 1 && flows[0]!.steps.every(isFine)
}

/** A program as text, one step in a line. */
export function show({ flows, theirs }: Program): string {
  const lines = flows.flatMap(({ way, isRetried, rows, steps, isDestroyed }, index) => [
    `flow ${index}: ${way} of rows ${rows.join(', ')}${isRetried && way !== 'joined' ? ', with retry' : ''}`,
    ...steps.flatMap(showStep).map((line) => `  ${line}`),
    ...(isDestroyed ? ['  destroy'] : []),
  ])
  return [...lines, ...theirs.map((row) => `another session: mergeJsonKey of row ${row}`)].join('\n')
}

function showStep(step: Step): string[] {
  if ('branches' in step) {
    return [`${step.do}:`, ...step.branches.flatMap((each) => each.flatMap(showStep).map(bulleted))]
  }
  if ('steps' in step) {
    const title = step.do === 'savepoint' && step.isThrown ? 'savepoint that throws' : step.do
    return [`${title}:`, ...step.steps.flatMap(showStep).map((line) => `  ${line}`)]
  }
  return [`${step.do} (${step.row})`]
}

function bulleted(line: string, index: number): string {
  return `${index === 0 ? '|' : ' '} ${line}`
}
