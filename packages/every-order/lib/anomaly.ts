import {
  accessesOf,
  changesCondition,
  dependenciesOf,
  documentOf,
  insertRefusing,
  isEqual,
  isTime,
  rowOf,
  setOf,
  tableIn,
} from './dependencies.js'
import type { Access, Anomaly, AnomalyName, Dependency, Edge } from './dependencies.js'
import { FailureError, HangError } from './errors.js'
import type { Outcome } from './run.js'
import { NotSerialError } from './serial.js'
import { nameOf, shapeOf, tableOf } from './statement.js'
import { isSameRow } from './step.js'
import type { Step } from './step.js'

const remedies: Readonly<Record<AnomalyName, string>> = {
  'lost update':
    'Lock the row with the read, in the transaction of the write (FOR UPDATE); or let one statement compute the new value; or compare a version in the WHERE of the UPDATE, and check its number of rows.',
  'check-then-act':
    'Put what was checked into the WHERE of the write, and check its number of rows; or lock the row with the read, in the transaction of the write (FOR UPDATE).',
  'write skew':
    'Lock what both read before either decides, in the transaction of the write (FOR UPDATE on the rows, or on a row that stands for the set); or use SERIALIZABLE, and retry what the server refuses.',
  'read skew':
    'Read everything in one statement or in one REPEATABLE READ transaction, and write what belongs together in one transaction.',
  'non-repeatable read':
    'Read the row once and pass the value on; or read in one REPEATABLE READ transaction; or lock it with the first read.',
  phantom: 'Read the rows once and pass them on; or read in one REPEATABLE READ transaction.',
  'intermediate read': 'Write once; or make both writes in one transaction, so that no read comes between them.',
  'dirty read': 'Read with READ COMMITTED or a higher isolation level.',
  'write cycle': 'Make the writes that belong together in one transaction, in the same order in every participant.',
  'double insert':
    'Add a unique key for what was looked up; then insert first, and treat a violation of the key as “it exists” (ON CONFLICT, ON DUPLICATE KEY, findOrCreate).',
  'partial write': 'Make all writes of the participant in one transaction, so that an error undoes the earlier ones.',
  'double write':
    'Let a retry see that the first attempt was committed: insert a key of the request, the same in every attempt, in the same transaction, and stop if it is there; or write values, not changes of values.',
  'lost write': 'Await every write, and let its error reject, or write again.',
  deadlock: 'Lock the rows in the same order in every participant; and retry the transaction that the server ends.',
  'self-deadlock': 'Send both statements in one transaction: pass { transaction } to the call that waits.',
  'serialization failure': 'Retry the whole transaction, with fresh reads.',
  livelock: '',
  unnamed: '',
}

/** A failing order. */
interface Failing {
  readonly steps: readonly Step[]
  readonly outcomes: Readonly<Record<string, Outcome>>
  readonly error: unknown
}

/** Names the anomaly of a failing order. */
export function anomalyOf({ steps, outcomes, error }: Failing): Anomaly {
  if (error instanceof HangError) return selfDeadlock(steps, error)
  if (error instanceof FailureError) return refusal(steps, error)
  const edges = dependenciesOf(steps)
  const column = error instanceof NotSerialError ? error.difference?.column : undefined
  const lost = [lostUpdate, unnoticed, doubleInsert, writeSkew, staleOverwrite]
  const ways = [doubleWrite, lostWrite, dirtyRead, partialWrite, ...lost, readSkew, writeCycle, circle]
  for (const way of ways) {
    const found = way({ steps, outcomes, edges, column })
    if (found) return found
  }
  return anomaly('unnamed', [], 'The recorded statements do not show a cycle.')
}

/** What a failing order has left behind. */
interface Evidence {
  readonly steps: readonly Step[]
  readonly outcomes: Failing['outcomes']
  readonly edges: readonly Edge[]
  /** The column whose final value is wrong, if that is known. */
  readonly column: string | undefined
}

function anomaly(name: AnomalyName, cycle: readonly Dependency[], sentence = sentenceOf(cycle)): Anomaly {
  const plain = cycle.map(({ kind, from, to, item }) => ({ kind, from, to, item }))
  return { name, cycle: plain, sentence, remedy: remedies[name] }
}

function sentenceOf(cycle: readonly Dependency[]): string {
  return `${cycle.map(clauseOf).join(', and ')}.`
}

function clauseOf({ kind, from, to, item }: Dependency): string {
  const [row, first, second] = [rowOf(item), from.participant, to.participant]
  if (kind === 'waits') return `${first} waited at ${from.number} for the lock that ${second} took at ${to.number}`
  if (kind === 'ww') return `${second} overwrote at ${to.number} what ${first} wrote to ${row} at ${from.number}`
  if (kind === 'wr') return `${second} read at ${to.number} what ${first} wrote to ${row} at ${from.number}`
  const verb = /^\s*INSERT/i.test(to.sql) ? 'inserted into' : /^\s*DELETE/i.test(to.sql) ? 'deleted' : 'wrote'
  return `${first} read at ${from.number} before ${second} ${verb} ${verb === 'inserted into' ? tableIn(item) : row} at ${to.number}`
}

/** A read of a value that was not committed. */
function dirtyRead({ edges, steps }: Evidence): Anomaly | undefined {
  const dirty = edges.find(({ isDirty }) => isDirty)
  if (!dirty) return undefined
  const { from, to, source } = dirty
  const end = steps.find(
    ({ transaction, kind, number }) => transaction === from.transaction && kind === 'end' && number > to.number,
  )
  const after = source.committedAt < Infinity ? 'committed' : 'rolled back'
  const ended = end ? `, which ${from.participant} ${after} only at ${end.number}` : ''
  const back = edges.find(
    (each) => each.from.participant === to.participant && each.to.participant === from.participant,
  )
  return anomaly('dirty read', back ? [dirty, back] : [dirty], `${clauseOf(dirty)}${ended}.`)
}

/** A participant lost a connection after its write was committed, and made the same write again. */
function doubleWrite({ steps }: Evidence): Anomaly | undefined {
  const lost = steps.find(({ fault }) => fault !== undefined)
  if (!lost) return undefined
  const { participant, number } = lost
  const writes = lastingWrites(steps, participant)
  for (const first of writes.filter(({ step }) => step.number <= number)) {
    const { sql, touched } = first.step
    const again = writes.find(({ step }) => step.number > number && shapeOf(step.sql) === shapeOf(sql))
    if (!again) continue
    const row = rowOf(touched[0] ?? `${first.table}#*`)
    const sentence = `${participant} wrote ${row} at ${first.step.number}, which was committed, got the error of a lost connection at ${number}, and made the same write again at ${again.step.number}.`
    return anomaly('double write', [], sentence)
  }
  return undefined
}

/** A participant resolved, although none of its writes was committed after a fault. */
function lostWrite({ steps, outcomes }: Evidence): Anomaly | undefined {
  const lost = steps.find(({ fault }) => fault !== undefined)
  if (!lost || outcomes[lost.participant] !== 'ok') return undefined
  const isWrite = ({ participant, kind }: Step): boolean => participant === lost.participant && kind === 'write'
  const write = steps.find((step) => isWrite(step) && step.number <= lost.number)
  if (!write || lastingWrites(steps, lost.participant).length > 0) return undefined
  const sentence = `${lost.participant} resolved, but its write at ${write.number} was not committed: its connection was lost at ${lost.number}.`
  return anomaly('lost write', [], sentence)
}

/** The writes of a participant that were committed. */
function lastingWrites(steps: readonly Step[], participant: string): Access[] {
  return accessesOf(steps).filter(
    ({ step, verb, committedAt }) =>
      step.participant === participant && verb !== 'select' && committedAt < Infinity && step.affected !== 0,
  )
}

/** A statement of a participant failed after another one of it was committed, and the participant rejected, or its process ended. */
function partialWrite({ steps, outcomes }: Evidence): Anomaly | undefined {
  for (const failed of steps.filter(({ error }) => error !== undefined)) {
    const { participant, number, fault } = failed
    if (fault === undefined && outcomes[participant] !== 'unknown') continue
    const lasting = lastingWrites(steps, participant).find(
      ({ step, committedAt }) => committedAt < number || (step === failed && fault === 'killed-after'),
    )
    if (!lasting) continue
    const row = rowOf(lasting.step.touched[0] ?? `${lasting.table}#*`)
    const then = fault === undefined ? 'failed' : fault === 'stopped' ? 'stopped' : 'lost its connection'
    const sentence = `${participant} wrote ${row} at ${lasting.step.number}, which was committed, and ${then} at ${number}.`
    return anomaly('partial write', [], sentence)
  }
  return undefined
}

/** A participant read a row, another one changed it, and the first wrote to it, without a fresh read. */
function lostUpdate({ edges, column }: Evidence): Anomaly | undefined {
  const pairs = edges.flatMap((read) =>
    edges.flatMap((write) => {
      const isPair = read.kind === 'rw' && write.kind === 'ww' && read.target === write.source
      if (!isPair || read.from.participant !== write.to.participant || read.source.at > write.target.at) return []
      const shared = read.target.sets.filter(({ column: name }) => setOf(write.target, name) !== undefined)
      const lost = shared.filter(({ column: name, value }) => {
        const over = setOf(write.target, name)!
        // Two that add the same to a number write the same.
        return 'value' in over && (!isEqual(over.value, value) || typeof value === 'number')
      })
      const isFresh = edges.some(
        ({ kind, from, to, target }) =>
          kind === 'wr' && from === read.to && to.participant === read.from.participant && target.at < write.target.at,
      )
      const lacks = lost.some(({ column: name, value }) => lacksKey(setOf(write.target, name)!.value, value))
      if (isFresh && !lacks) return []
      const isIt = column === undefined || shared.some(({ column: name }) => name === column)
      return [{ read, write, isLost: lost.length > 0, rank: (isIt ? 0 : 2) + (lost.length > 0 ? 0 : 1) }]
    }),
  )
  const [best] = pairs.sort((one, other) => one.rank - other.rank || other.read.from.number - one.read.from.number)
  if (!best) return undefined
  const { read, write, isLost } = best
  const { participant, number } = write.to
  const then = isLost ? 'overwrote that' : 'wrote to it without another read'
  const sentence = `${clauseOf(read)}, and ${participant} ${then} at ${number}.`
  return anomaly(isLost ? 'lost update' : 'check-then-act', [read, write], sentence)
}

/** Whether a document lacks a key of the document that it replaces. */
function lacksKey(document: unknown, replaced: unknown): boolean {
  const [keys, theirs] = [documentOf(document), documentOf(replaced)].map((each) => Object.keys(each ?? {}))
  return theirs!.some((key) => !keys!.includes(key))
}

/** An UPDATE that matched no row any more, whose participant went on. */
function unnoticed({ edges, outcomes }: Evidence): Anomaly | undefined {
  for (const read of edges) {
    const isRead = read.kind === 'rw' && read.source.verb === 'select' && outcomes[read.from.participant] === 'ok'
    const missed = edges.find(
      ({ kind, source, target, to }) =>
        isRead &&
        kind === 'wr' &&
        source === read.target &&
        target.verb !== 'select' &&
        to.participant === read.from.participant &&
        to.affected === 0 &&
        target.at > read.source.at &&
        changesCondition(read.target, target.where),
    )
    const isLast = (to: Step): boolean =>
      edges.every(
        ({ kind, target }) =>
          kind !== 'ww' || target.step.participant !== to.participant || target.step.number < to.number,
      )
    if (!missed || !isLast(missed.to)) continue
    const { participant, number } = missed.to
    const sentence = `${clauseOf(read)}, and the write of ${participant} at ${number} then matched no row, which ${participant} took for success.`
    return anomaly('lost update', [read, missed], sentence)
  }
  return undefined
}

/** The pairs of reads that each missed a write of the other participant. */
function missedByBoth(edges: readonly Edge[]): (readonly [Edge, Edge])[] {
  const missed = edges.filter(({ kind }) => kind === 'rw')
  return missed.flatMap((one) =>
    missed
      .filter(
        (other) =>
          one.from.number < other.from.number &&
          one.from.participant === other.to.participant &&
          one.to.participant === other.from.participant &&
          one.source.at < other.target.at &&
          other.source.at < one.target.at,
      )
      .map((other) => [one, other] as const),
  )
}

/** Both participants found nothing, and both inserted what they had looked for. */
function doubleInsert({ edges }: Evidence): Anomaly | undefined {
  const isFirst = ({ source, target }: Edge): boolean => target.verb === 'insert' && foundNothing(source.step)
  const pair = missedByBoth(edges).find(
    ([one, other]) =>
      isFirst(one) &&
      isFirst(other) &&
      one.target.table === other.target.table &&
      ((looksForOne(one) && looksForOne(other)) || insertsSame(one.target, other.target)),
  )
  return pair && anomaly('double insert', pair)
}

/** Whether a read asks for one row by equalities, and not for a set of rows. */
function looksForOne({ source: { step } }: Edge): boolean {
  return /\bLIMIT 1\b/i.test(step.sql) && !/\bWHERE\b.*[<>]/is.test(step.sql)
}

/** Whether two inserts have the same values, except times. */
function insertsSame(one: Access, other: Access): boolean {
  return one.rows.some((row) =>
    other.rows.some((theirs) =>
      row.every(({ column, value }) => {
        const their = theirs.find((each) => each.column === column)?.value
        return isEqual(value, their) || (isTime(value) && isTime(their))
      }),
    ),
  )
}

/** Whether a read returned no row, or one that counts none. */
function foundNothing({ rows }: Step): boolean {
  const [row] = rows
  const values = Object.values(row ?? {})
  return !row || (rows.length === 1 && values.length === 1 && [0, '0', false, null].includes(values[0] as never))
}

/** Both participants decided by what the other one changed. */
function writeSkew({ edges }: Evidence): Anomaly | undefined {
  const [pair] = missedByBoth(edges)
  return pair && anomaly('write skew', pair)
}

/** A participant overwrote a write of another participant, and had missed another write that led to it: a total of rows. */
function staleOverwrite({ edges }: Evidence): Anomaly | undefined {
  for (const missed of edges.filter(({ kind }) => kind === 'rw')) {
    const over = edges.find(
      ({ kind, from, to, target }) =>
        kind === 'ww' &&
        from.participant === missed.to.participant &&
        to.participant === missed.from.participant &&
        missed.source.at < target.at,
    )
    if (over) return anomaly('lost update', [missed, over])
  }
  return undefined
}

/** A participant saw one write of another participant, and not another one. */
function readSkew({ edges }: Evidence): Anomaly | undefined {
  const pairs = edges.flatMap((seen) =>
    edges
      .filter(
        (missed) =>
          seen.kind === 'wr' &&
          missed.kind === 'rw' &&
          seen.to.participant === missed.from.participant &&
          seen.from.participant === missed.to.participant,
      )
      .map((missed) => ({ seen, missed, name: skewOf(seen, missed) })),
  )
  const best = pairs.find(({ name }) => name === 'read skew') ?? pairs[0]
  if (!best) return undefined
  const { seen, missed, name } = best
  return anomaly(name, missed.from.number < seen.to.number ? [missed, seen] : [seen, missed])
}

function skewOf(seen: Edge, missed: Edge): AnomalyName {
  const isOneRow = seen.item === missed.item
  if (seen.to === missed.from) return isOneRow && seen.from !== missed.to ? 'intermediate read' : 'read skew'
  if (!isOneRow) return 'read skew'
  return seen.source.verb === 'update' ? 'non-repeatable read' : 'phantom'
}

/** Each of two participants overwrote a write of the other one. */
function writeCycle({ edges }: Evidence): Anomaly | undefined {
  return twoWay(edges, 'write cycle', ({ kind }) => kind === 'ww')
}

/** Two participants depend on each other in a way that has no name here; or three do. */
function circle({ edges }: Evidence): Anomaly | undefined {
  const two = twoWay(edges, 'unnamed', () => true)
  if (two) return two
  for (const one of edges) {
    const second = edges.filter((each) => each.from.participant === one.to.participant)
    for (const other of second) {
      const last = edges.find(
        (each) => each.from.participant === other.to.participant && each.to.participant === one.from.participant,
      )
      if (last) return anomaly(nameOfThree([one, other, last]), [one, other, last])
    }
  }
  return undefined
}

function nameOfThree(cycle: readonly Edge[]): AnomalyName {
  const count = (kind: Edge['kind']): number => cycle.filter((each) => each.kind === kind).length
  if (count('ww') === cycle.length) return 'write cycle'
  if (count('rw') === cycle.length) return 'write skew'
  return count('rw') === 1 && count('wr') > 0 ? 'read skew' : 'unnamed'
}

function twoWay(edges: readonly Edge[], name: AnomalyName, isIt: (edge: Edge) => boolean): Anomaly | undefined {
  for (const one of edges.filter(isIt)) {
    const other = edges.find(
      (each) =>
        isIt(each) && each.from.participant === one.to.participant && each.to.participant === one.from.participant,
    )
    if (other) return anomaly(name, [one, other])
  }
  return undefined
}

function selfDeadlock(steps: readonly Step[], { waiting, holder }: HangError): Anomaly {
  const [from, to] = [steps[waiting - 1]!, steps[holder - 1]!]
  const item = from.touched[0] ?? '#*'
  const sentence = `${from.participant} waited at ${waiting} for a lock that it had itself taken at ${holder}, in another transaction.`
  return anomaly('self-deadlock', [{ kind: 'waits', from, to, item }], sentence)
}

/** The name of an error that the server answered with. */
function refusal(steps: readonly Step[], error: FailureError): Anomaly {
  const failed = steps.findLast((step) => step.error !== undefined && step.participant === error.participant)
  if (failed && /deadlock/i.test(failed.error!)) return deadlock(steps, failed)
  if (failed && /could not serialize|Record has changed since last read/i.test(failed.error!))
    return anomaly(
      'serialization failure',
      [],
      `The server refused statement ${failed.number} of ${failed.participant}, since it conflicts with a concurrent transaction.`,
    )
  const first = failed && insertRefusing(failed, steps)
  if (!failed || !first) return anomaly('unnamed', [], 'The recorded statements do not show a cycle.')
  const table = nameOf(tableOf(failed.sql)!)
  const dependency = { kind: 'ww', from: first, to: failed, item: `${table}#*` } as const
  const sentence = `${first.participant} inserted into ${table} at ${first.number}, and a unique key refused the insert of ${failed.participant} at ${failed.number}.`
  return anomaly('double insert', [dependency], sentence)
}

/** Two participants or more wait for each other's locks. A wait that the server ended at once was not recorded. */
function deadlock(steps: readonly Step[], victim: Step): Anomaly {
  const waits: Dependency[] = []
  for (let waiting: Step | undefined = victim; waiting;) {
    const to = holderOf(waiting, steps)
    if (!to) break
    waits.push({ kind: 'waits', from: waiting, to, item: waiting.touched[0]! })
    if (to.participant === victim.participant || waits.length > steps.length) break
    waiting = steps.find(
      (each) =>
        each.participant === to.participant &&
        each.number > to.number &&
        each.number <= victim.answeredAfter &&
        holderOf(each, steps) !== undefined,
    )
  }
  const isCircle = waits.length > 1 && waits.at(-1)!.to.participant === victim.participant
  const sentence = `The server ended a deadlock at statement ${victim.number} of ${victim.participant}.`
  return anomaly('deadlock', isCircle ? waits : [], isCircle ? sentenceOf(waits) : sentence)
}

/** The last statement of another participant that locked a row which a statement locks. */
function holderOf({ number, participant, touched }: Step, steps: readonly Step[]): Step | undefined {
  return steps.findLast(
    (each) =>
      each.number < number &&
      each.participant !== participant &&
      (each.kind === 'write' || each.kind === 'lock') &&
      each.touched.some((row) => touched.some((their) => isSameRow(row, their))),
  )
}
